//! Sellers of training by weight, `base=7,rejector=1,person=2` or one name alone, and those of an evaluation, a list.

use super::Config;
use super::fields::SELLERS;
use super::read::Found;

/// The sellers that a text names, each with its weight; a name alone weighs 1.
///
/// # Errors
/// What is wrong with it, in words.
pub fn weighed(text: &str) -> Result<Vec<(&str, f64)>, String> {
    let mut all: Vec<(&str, f64)> = vec![];
    for part in text.split(',') {
        let (name, weight) = part.split_once('=').map_or((part, "1"), |(name, weight)| (name, weight));
        let (name, weight) = (name.trim(), weight.trim());
        if name == "all" || !SELLERS.contains(&name) {
            let known = SELLERS.iter().filter(|name| **name != "all").copied().collect::<Vec<_>>().join(", ");
            return Err(format!("`{name}` is no seller; use {known}"));
        }
        if all.iter().any(|(other, _)| *other == name) {
            return Err(format!("`{name}` is named twice; give it one weight"));
        }
        let weight = weight.parse().ok().filter(|weight: &f64| weight.is_finite() && *weight > 0.0);
        let weight = weight.ok_or_else(|| format!("`{part}` has no weight above 0; write for example {name}=2"))?;
        all.push((name, weight));
    }
    Ok(all)
}

/// The names of a list of sellers that are none.
pub fn strange(list: &str) -> Vec<&str> {
    list.split(',').map(str::trim).filter(|name| !SELLERS.contains(name)).collect()
}

/// Notes what is wrong with the sellers.
pub(super) fn check(config: &Config, found: &mut Found) {
    let strange = strange(&config.eval.seller);
    if !strange.is_empty() {
        let what = format!("`{}` is no seller; use some of {}", strange.join("`, `"), SELLERS.join(", "));
        found.problem("eval.seller", &what);
    }
    let sellers = config.rollout.sellers.as_str();
    match weighed(sellers) {
        Err(what) => found.problem("rollout.sellers", &what),
        Ok(_) if sellers != "base" && config.task.name != "game" => {
            let what = format!("task `{}` plays against the frozen model alone; set base", config.task.name);
            found.problem("rollout.sellers", &what);
        }
        Ok(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::weighed;

    #[test]
    fn names_have_weights_and_what_is_none_is_named() {
        assert_eq!(weighed("base").unwrap(), [("base", 1.0)]);
        assert_eq!(
            weighed("base=7, rejector , person=0.5").unwrap(),
            [("base", 7.0), ("rejector", 1.0), ("person", 0.5)]
        );
        for (text, part) in [
            ("", "`` is no seller"),
            ("all", "`all` is no seller"),
            ("base,base=2", "`base` is named twice"),
            ("base=0", "base=2"),
            ("base=-1", "no weight above 0"),
            ("base=inf", "no weight above 0"),
            ("base,", "`` is no seller"),
        ] {
            assert!(weighed(text).unwrap_err().contains(part), "{text}");
        }
    }
}
