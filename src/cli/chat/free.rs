//! A conversation with any model, through its chat template; no game.
//!
//! The one idea: a turn is a prompt like any other. It holds the whole conversation, and the engine keeps what it has of it: of
//! a later turn only the new words are run, to the same bits.

use super::{ChatArgs, typed};
use crate::cli::generate::screen::Screen;
use crate::cli::{Exit, Globals, dry_run, out, sampling};
use crate::error::{Error, Result};
use crate::generate::{self, Heard, How, Request};
use crate::infer::Engine;
use crate::model::{Plan, Weights};
use crate::setup::{base, memory};
use crate::text::{Conversation, Prompts};
use serde_json::{Value, json};
use std::io::{BufRead, IsTerminal};

/// Talks until the input ends.
///
/// # Errors
/// Everything wrong with config, model or options, before a word is said.
pub fn run(args: &ChatArgs, globals: &Globals) -> Result<Exit> {
    let (config, name) = globals.resolve_alone(&args.model)?;
    let dev = config.open_device()?;
    let (shape, prompts) = (base::shape(&name, &config)?, base::prompts(&name, &config)?);
    let how = sampling::how(&args.filters, &args.ends, &config, &shape, &prompts)?;
    let whole = [1, shape.max_position_embeddings, 0];
    let (sizes, plan) =
        memory::seats(&dev, &config, whole, &|sizes, plan| memory::of_generation(&shape, sizes, &how.lean, plan))?;
    if args.dry_run {
        return Ok(dry_run::print_plan(&plan, globals.json));
    }
    let weights = base::weights(&dev, &name, &config)?;
    let engine = memory::generator(&weights.config, sizes, &how.lean, &mut Plan::on(&dev))?;
    let system = args.system.as_ref().map(|text| json!({ "role": "system", "content": text }));
    let mut talk = Talk { weights, engine, prompts, how, system, messages: vec![], turns: 0, json: globals.json };
    talk.listen(&mut std::io::stdin().lock())?;
    Ok(Exit::Done)
}

/// One conversation after another with one model.
struct Talk {
    weights: Weights,
    engine: Engine,
    prompts: Prompts,
    how: How,
    system: Option<Value>,
    /// What was said in this conversation, without the system message.
    messages: Vec<Value>,
    /// Replies of all conversations: what tells one turn's noise from another's.
    turns: u64,
    json: bool,
}

impl Talk {
    fn listen(&mut self, input: &mut dyn BufRead) -> Result<()> {
        loop {
            if std::io::stdin().is_terminal() {
                out::print("> ");
            }
            let Some(line) = typed::line(input).map_err(|e| Error::io("stdin", e))? else { return Ok(()) };
            line.notes.iter().for_each(|note| out::note(note));
            match line.text.trim() {
                "" => {}
                "/quit" | "/exit" => return Ok(()),
                "/new" => self.messages.clear(),
                text => self.turn(text)?,
            }
        }
    }

    /// Says something and streams the reply; what has no room in the context is said to have none, and is not said.
    fn turn(&mut self, text: &str) -> Result<()> {
        self.messages.push(json!({ "role": "user", "content": text }));
        let all: Vec<Value> = self.system.iter().chain(&self.messages).cloned().collect();
        let prompt = self.prompts.of_conversation(&Conversation::asking(Value::Array(all)))?;
        let (n, context) = (prompt.len(), self.weights.config.max_position_embeddings);
        if n >= context {
            self.messages.pop();
            out::note(&format!(
                "haggle: {n} tokens of conversation fill the model's context of {context}; /new begins another"
            ));
            return Ok(());
        }
        self.turns += 1;
        let requests = [Request { label: self.turns, sample: 0, prompt }];
        let mut screen = if self.json { Screen::lines(&requests) } else { Screen::stream(1) };
        let mut reply = String::new();
        generate::run(
            &mut self.engine,
            &self.weights,
            &self.prompts.tokenizer,
            &requests,
            &self.how,
            &mut |i, heard| {
                if let Heard::Answer(answer) = &heard {
                    reply.clone_from(&answer.text);
                }
                screen.hear(i, heard);
                Ok(())
            },
        )?;
        screen.end();
        self.messages.push(json!({ "role": "assistant", "content": reply }));
        Ok(())
    }
}
