//! Java's `.properties` format: what a line means, nothing about keys.
//!
//! The rules are those of `java.util.Properties.load(Reader)`: `=`, `:` or white space ends a key; a line that ends in an odd
//! number of backslashes goes on in the next; `#` and `!` start comments; `\t \n \f \r \uXXXX` are escapes and any other escaped
//! character stands for itself.

/// One key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The number of the line on which it starts, from 1.
    pub line: usize,
    /// The key, without escapes.
    pub key: String,
    /// The value, without escapes and without the white space that follows it: Java keeps that, and every Kafka key trims it.
    pub value: String,
}

/// A line that no `.properties` reader accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    /// The number of the line on which the entry starts, from 1.
    pub line: usize,
    /// What is wrong and what was expected.
    pub what: String,
}

/// Reads a whole file. Every line that can be read is an entry, in the file's order and with duplicates; every other is an error.
pub fn parse(text: &str) -> (Vec<Entry>, Vec<SyntaxError>) {
    let mut entries = Vec::new();
    let mut errors = Vec::new();
    // A byte order mark is what editors on Windows leave behind.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines = natural_lines(text).into_iter().enumerate();
    while let Some((index, line)) = lines.next() {
        let line = line.trim_start_matches(is_space);
        if line.is_empty() || line.starts_with(['#', '!']) {
            continue;
        }
        let mut logical = line.to_owned();
        while ends_in_continuation(&logical) {
            logical.pop();
            match lines.next() {
                Some((_, next)) => logical.push_str(next.trim_start_matches(is_space)),
                None => break,
            }
        }
        match split(&logical) {
            Ok((key, value)) => entries.push(Entry { line: index + 1, key, value: value.trim_end().to_owned() }),
            Err(what) => errors.push(SyntaxError { line: index + 1, what }),
        }
    }
    (entries, errors)
}

/// Lines end with `\n`, `\r` or `\r\n`.
fn natural_lines(text: &str) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(end) = rest.find(['\n', '\r']) {
        lines.push(&rest[..end]);
        rest = if rest[end..].starts_with("\r\n") { &rest[end + 2..] } else { &rest[end + 1..] };
    }
    lines.push(rest);
    lines
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\u{c}')
}

fn ends_in_continuation(line: &str) -> bool {
    line.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1
}

/// Splits a logical line at the first unescaped separator and resolves the escapes of both sides.
fn split(line: &str) -> Result<(String, String), String> {
    let mut escaped = false;
    let mut key_end = line.len();
    for (at, c) in line.char_indices() {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == '=' || c == ':' || is_space(c) {
            key_end = at;
            break;
        }
    }
    let mut value = line[key_end..].trim_start_matches(is_space);
    if let Some(after) = value.strip_prefix(['=', ':']) {
        value = after.trim_start_matches(is_space);
    }
    let key = unescape(&line[..key_end])?;
    if key.is_empty() {
        return Err(format!("'{line}' has no key; expected key=value"));
    }
    Ok((key, unescape(value)?))
}

fn unescape(text: &str) -> Result<String, String> {
    // `\uXXXX` are UTF-16 units, as Java's: two of them can be one character.
    let mut units: Vec<u16> = Vec::with_capacity(text.len());
    let mut chars = text.chars();
    let mut buffer = [0; 2];
    while let Some(c) = chars.next() {
        let c = if c == '\\' {
            match chars.next() {
                Some('t') => '\t',
                Some('n') => '\n',
                Some('r') => '\r',
                Some('f') => '\u{c}',
                Some('u') => {
                    let digits: String = chars.by_ref().take(4).collect();
                    let all_hex = digits.len() == 4 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
                    let unit = u16::from_str_radix(&digits, 16).ok().filter(|_| all_hex);
                    units.push(unit.ok_or_else(|| format!("'\\u{digits}' is not a character; expected \\u and four hexadecimal digits"))?);
                    continue;
                }
                Some(other) => other,
                None => break,
            }
        } else {
            c
        };
        units.extend_from_slice(c.encode_utf16(&mut buffer));
    }
    String::from_utf16(&units).map_err(|_| format!("'{text}' holds half of a surrogate pair (\\ud800 to \\udfff come in twos)"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pairs(text: &str) -> Vec<(usize, String, String)> {
        let (entries, errors) = parse(text);
        assert_eq!(errors, []);
        entries.into_iter().map(|entry| (entry.line, entry.key, entry.value)).collect()
    }

    fn pair(line: usize, key: &str, value: &str) -> (usize, String, String) {
        (line, key.to_owned(), value.to_owned())
    }

    #[test]
    fn separators_and_white_space() {
        let text = "a=1\n  b : 2\nc 3\n\td\t=\t4 5 \ne\nf=\n=x";
        let (entries, errors) = parse(text);
        let read: Vec<_> = entries.into_iter().map(|entry| (entry.line, entry.key, entry.value)).collect();
        assert_eq!(read, [pair(1, "a", "1"), pair(2, "b", "2"), pair(3, "c", "3"), pair(4, "d", "4 5"), pair(5, "e", ""), pair(6, "f", "")]);
        assert_eq!(errors.len(), 1);
        assert_eq!(errors[0].line, 7);
    }

    #[test]
    fn a_second_separator_belongs_to_the_value() {
        assert_eq!(pairs("listeners=PLAINTEXT://:9092\nx = = y"), [pair(1, "listeners", "PLAINTEXT://:9092"), pair(2, "x", "= y")]);
    }

    #[test]
    fn comments_are_whole_lines_only() {
        assert_eq!(pairs("# a=1\n!b=2\n  # c=3\nd=4 # not a comment"), [pair(4, "d", "4 # not a comment")]);
    }

    #[test]
    fn continuations_drop_the_next_lines_indent_and_count_their_lines() {
        assert_eq!(pairs("a=1,\\\n   2,\\\r\n\t3\nb=x\\\\\nc=end\\"), [pair(1, "a", "1,2,3"), pair(4, "b", "x\\"), pair(5, "c", "end")]);
    }

    #[test]
    fn escapes() {
        assert_eq!(pairs("a\\=b\\:c\\ d=\\u0041\\t\\n\\z\\\\"), [pair(1, "a=b:c d", "A\t\nz\\")]);
        assert_eq!(pairs("k=\\ud83d\\ude00"), [pair(1, "k", "\u{1f600}")]);
        assert_eq!(parse("k=\\u00g1").1.len(), 1);
        assert_eq!(parse("k=\\ud83d").1.len(), 1);
        assert_eq!(parse("k=\\u+041").1.len(), 1);
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_first_key() {
        assert_eq!(pairs("\u{feff}a=1"), [pair(1, "a", "1")]);
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "(?s).{0,200}") {
            let (entries, _) = parse(&text);
            prop_assert!(entries.iter().all(|entry| !entry.key.is_empty()));
        }

        #[test]
        fn what_is_escaped_comes_back(key in "[a-z=: #!\\\\\u{e9}]{1,12}", value in "[a-z=: #!\\\\\u{1f600}]{0,12}") {
            let escape = |text: &str| text.chars().map(|c| match c {
                '=' | ':' | ' ' | '#' | '!' | '\\' => format!("\\{c}"),
                c => c.to_string(),
            }).collect::<String>();
            let (entries, errors) = parse(&format!("{}={}\n", escape(&key), escape(&value)));
            prop_assert_eq!(errors, []);
            prop_assert_eq!(&entries[0].key, &key);
            prop_assert_eq!(entries[0].value.as_str(), value.trim_end());
        }
    }
}
