//! What the embedded model can play, said before a game begins.
//!
//! The one idea: it is tiny and has seen compact prompts and prices of at most four digits; what is beyond is refused when
//! none of it can work, and named when the game goes on worse.

use crate::config::Config;
use crate::config::choice::PromptStyle;
use crate::embedded;
use crate::error::{Error, Result};
use crate::negotiate::Product;
use std::sync::Arc;

/// Where the embedded model is among `models`, by name, a line on the products whose prices it cannot copy, if there are any.
///
/// # Errors
/// [`Error::Config`] for a prompt style it has never seen.
pub fn warn(config: &Config, models: &[&str], products: &[&[Arc<Product>]]) -> Result<Option<String>> {
    let plays_games = ["game", "menu"].contains(&config.task.name.as_str());
    if !plays_games || !models.contains(&embedded::NAME) {
        return Ok(None);
    }
    if PromptStyle::of(&config.game.prompt_style) == PromptStyle::Paper {
        let what = "game.prompt_style: the embedded model has seen compact prompts alone, and each of its replies to those of \
                    the paper would break the protocol; set compact, or name a chat model with --model DIR";
        return Err(Error::Config { problems: vec![what.into()] });
    }
    let all = || products.iter().copied().flatten();
    let dear: Vec<_> = all().filter(|product| product.list > embedded::DEAREST).collect();
    Ok(dear.first().map(|first| {
        format!(
            "warning: {} of {} products list above {} (the first is {} at {}); the embedded model has seen no such price and \
             miscopies it: scale these prices, leave them out, or name another model with --model DIR",
            dear.len(),
            all().count(),
            embedded::DEAREST.full(),
            first.code,
            first.list.full()
        )
    }))
}
