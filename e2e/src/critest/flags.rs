//! critest's arguments, as Go's package flag reads them: `-name`, `-name=value` or `-name value`, with one or two dashes.

/// The name and, behind a `=`, the value of an argument that is a flag.
fn split(arg: &str) -> Option<(&str, Option<&str>)> {
    let flag = arg.strip_prefix('-')?;
    let flag = flag.strip_prefix('-').unwrap_or(flag);
    Some(flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value))))
}

/// Whether a flag is among the arguments.
pub fn has(args: &[String], name: &str) -> bool {
    args.iter().filter_map(|arg| split(arg)).any(|(flag, _)| flag == name)
}

/// What a flag is set to.
pub fn value<'a>(args: &'a [String], name: &str) -> Option<&'a str> {
    let at = args.iter().position(|arg| split(arg).is_some_and(|(flag, _)| flag == name))?;
    split(&args[at])?.1.or_else(|| args.get(at + 1).map(String::as_str))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_in_each_form() {
        let args = ["-a", "--b=1=2", "-c", "3", "x=4", "--d"].map(str::to_owned);
        assert!(["a", "b", "c", "d"].iter().all(|name| has(&args, name)));
        assert!(!has(&args, "x") && !has(&args, "b=1=2") && !has(&args, "3"));
        assert_eq!((value(&args, "b"), value(&args, "c"), value(&args, "d")), (Some("1=2"), Some("3"), None));
    }
}
