//! House rules that no compiler checks, over every file of the project.
//!
//! Each finding names file:line, what is banned and what to write instead. A line that has a good reason carries
//! `tidy-allow: RULE` with the reason in a comment on it or on the line above. What clippy can see is in `ci/clippy.toml`.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// Lines of production code (what stands before the file's own tests) that one file may have.
const FILE_LINES_MAX: usize = 950;
const TEST_LINES_MAX: usize = 1200;

/// What is wrong, where, and what to do.
#[derive(Debug, PartialEq)]
struct Finding {
    file: String,
    line: usize,
    rule: &'static str,
    what: String,
    instead: &'static str,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: [{}] {}; instead: {}", self.file, self.line, self.rule, self.what, self.instead)
    }
}

#[test]
fn house_rules_hold() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    collect(root, &mut files);
    files.sort();
    assert!(files.len() > 10, "only {} files found below {}", files.len(), root.display());
    let mut findings = Vec::new();
    for path in &files {
        let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
        let Ok(text) = String::from_utf8(fs::read(path).unwrap()) else { continue };
        check(&name, &text, &mut findings);
    }
    let report: Vec<String> = findings.iter().map(Finding::to_string).collect();
    assert!(findings.is_empty(), "{} house rules broken:\n{}", report.len(), report.join("\n"));
}

/// Text files that belong to the project, without build output, data and version control.
fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            let skipped = ["target", ".git", "ottla-data", "node_modules", "__pycache__", ".venv", "proptest-regressions"];
            if !skipped.contains(&name.as_str()) {
                collect(&path, files);
            }
        } else {
            let known = ["rs", "toml", "md", "py", "go", "java", "xml", "sh", "properties", "txt", "mod"];
            let extension = path.extension().map(|e| e.to_string_lossy().into_owned()).unwrap_or_default();
            let parent = path.parent().and_then(Path::file_name).map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            let script = extension.is_empty() && ["ci", ".ci", "clients"].contains(&parent.as_str());
            if known.contains(&extension.as_str()) || script {
                files.push(path);
            }
        }
    }
}

/// All rules for one file; `name` is its path below the root with forward slashes.
fn check(name: &str, text: &str, findings: &mut Vec<Finding>) {
    if name == "Cargo.lock" || name.ends_with("go.sum") {
        return;
    }
    let raw: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    check_text(name, &raw, &mut found);
    if name.ends_with(".rs") {
        let code = blank_comments_and_strings(text);
        let code: Vec<&str> = code.lines().collect();
        check_rust(name, &raw, &code, &mut found);
    }
    found.retain(|f: &Finding| !allowed(&raw, f));
    findings.extend(found);
}

fn allowed(raw: &[&str], finding: &Finding) -> bool {
    let marker = format!("tidy-allow: {}", finding.rule);
    let at = finding.line - 1;
    let here = raw.get(at).is_some_and(|l| l.contains(&marker));
    here || (at > 0 && raw.get(at - 1).is_some_and(|l| l.contains(&marker)))
}

fn check_text(name: &str, raw: &[&str], found: &mut Vec<Finding>) {
    // Put together here, so that this file does not break its own rule.
    let machine_paths = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/")];
    let mut add = |line, rule, what: String, instead| found.push(Finding { file: name.to_string(), line, rule, what, instead });
    for (i, line) in raw.iter().enumerate() {
        if line.starts_with(concat!("<<<<", "<<< ")) || line.starts_with(concat!(">>>>", ">>> ")) {
            add(i + 1, "conflict", "the mark of a merge conflict".to_string(), "one of the two sides");
        }
        for path in machine_paths {
            if line.contains(path) {
                add(i + 1, "machine-path", format!("a path of one machine, {path}…"), "a path relative to the project, or a temporary directory");
            }
        }
        if line.ends_with([' ', '\t', '\r']) && !name.ends_with(".md") {
            add(i + 1, "space", "white space at the end of the line".to_string(), "nothing");
        }
        if line.contains('\t') && !name.ends_with(".go") && !name.ends_with("go.mod") {
            add(i + 1, "tab", "a tab".to_string(), "spaces, or \\t in a string");
        }
    }
}

fn check_rust(name: &str, raw: &[&str], code: &[&str], found: &mut Vec<Finding>) {
    let mut add = |line, rule, what: String, instead| found.push(Finding { file: name.to_string(), line, rule, what, instead });
    if !raw.first().is_some_and(|l| l.starts_with("//!")) {
        add(1, "head", "the file has no head".to_string(), "`//!` in the first line: what belongs here");
    }
    let tests_at = code.windows(2).position(|w| w[0].trim() == "#[cfg(test)]" && w[1].trim_start().starts_with("mod ") && w[1].trim_end().ends_with('{'));
    let production = &code[..tests_at.unwrap_or(code.len())];
    // Lists of cases may be longer than code.
    let lines_max = if name.starts_with("tests/") || name.contains("/tests/") { TEST_LINES_MAX } else { FILE_LINES_MAX };
    if production.len() > lines_max {
        add(lines_max + 1, "long-file", format!("{} lines of production code", production.len()), "two files: one concept, one file");
    }

    for (i, line) in code.iter().enumerate() {
        for (banned, instead) in [
            ("todo!", "finish it, or return an error that says what is not there"),
            ("unimplemented!", "finish it, or return an error that says what is not there"),
            ("dbg!", "tracing"),
            ("#[ignore", "a test that always runs, or `ci/nightly`"),
            ("futures::select!", "tokio::select! with `biased;`: this one picks at random, outside the seed"),
        ] {
            if contains_item(line, banned) {
                add(i + 1, "unfinished", format!("`{banned}`"), instead);
            }
        }
        if contains_item(line, "thread_local!") {
            add(i + 1, "static", "`thread_local!`".to_string(), "a field of the broker: simulated brokers share threads, and it survives their crashes");
        }
        if let Some(kind) = mutable_static(code, i) {
            add(
                i + 1,
                "static",
                format!("a static with {kind}"),
                "a field of the broker: simulated brokers would share it, and it would survive their crashes",
            );
        }
        if let Some(at) = select_at(line)
            && !select_is_biased(&code[i..], at)
        {
            add(i + 1, "select", "`select!` without `biased;`".to_string(), "`biased;` first: else the branch is picked at random, outside the seed");
        }
    }
    for (i, line) in raw.iter().enumerate() {
        // Comments are where this one lives.
        if line.contains(concat!("FIX", "ME")) {
            add(i + 1, "unfinished", concat!("`FIX", "ME`").to_string(), "fix it, or say in the docs what is not there");
        }
    }
}

/// `what` occurs and is not the tail of a longer name.
fn contains_item(line: &str, what: &str) -> bool {
    line.match_indices(what).any(|(at, _)| at == 0 || !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
}

/// The kind of interior mutability of a static item that starts on line `i`.
fn mutable_static(code: &[&str], i: usize) -> Option<&'static str> {
    let line = code[i].trim_start();
    let line = line.strip_prefix("pub(crate) ").or(line.strip_prefix("pub(super) ")).or(line.strip_prefix("pub ")).unwrap_or(line);
    let rest = line.strip_prefix("static ")?;
    if rest.starts_with("mut ") {
        return Some("`mut`");
    }
    // The type may stand on the lines that follow, up to the `=`.
    let declaration: String = code[i..].iter().take(6).copied().collect::<Vec<_>>().join(" ");
    let declared_type = declaration.split('=').next().unwrap_or_default();
    [
        ("Atomic", "an atomic"),
        ("Mutex", "a lock"),
        ("RwLock", "a lock"),
        ("Once", "a once cell"),
        ("Lazy", "a lazy cell"),
        ("Cell", "a cell"),
        ("Notify", "a notify"),
    ]
    .into_iter()
    .find(|(name, _)| declared_type.contains(name))
    .map(|(_, kind)| kind)
}

/// Where the body of a `select!` on this line starts, if there is one.
fn select_at(line: &str) -> Option<usize> {
    let at = line.match_indices("select!").map(|(at, _)| at).find(|&at| at == 0 || !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))?;
    Some(at + "select!".len())
}

fn select_is_biased(code: &[&str], body_at: usize) -> bool {
    let mut text = code[0][body_at..].to_string();
    for line in code.iter().skip(1).take(8) {
        text.push(' ');
        text.push_str(line);
    }
    text.trim_start().strip_prefix(['{', '(', '[']).is_some_and(|t| t.trim_start().starts_with("biased;"))
}

/// The same lines with the contents of comments, strings and characters replaced by spaces.
fn blank_comments_and_strings(text: &str) -> String {
    let source: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let blank = |c: char| if c == '\n' { '\n' } else { ' ' };
    let mut i = 0;
    while i < source.len() {
        let next = source.get(i + 1).copied();
        match source[i] {
            '/' if next == Some('/') => {
                while i < source.len() && source[i] != '\n' {
                    out.push(' ');
                    i += 1;
                }
            }
            '/' if next == Some('*') => {
                let mut depth = 0;
                while i < source.len() {
                    let pair = (source[i], source.get(i + 1).copied().unwrap_or(' '));
                    let step = if pair == ('/', '*') {
                        depth += 1;
                        2
                    } else if pair == ('*', '/') {
                        depth -= 1;
                        2
                    } else {
                        1
                    };
                    for c in &source[i..(i + step).min(source.len())] {
                        out.push(blank(*c));
                    }
                    i += step;
                    if depth == 0 {
                        break;
                    }
                }
            }
            'r' if raw_string_hashes(&source, i).is_some() => {
                let hashes = raw_string_hashes(&source, i).unwrap_or_default();
                let end: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
                let start = i + 2 + hashes;
                let close = (start..source.len()).find(|&at| source[at..].starts_with(&end)).unwrap_or(source.len());
                let stop = (close + end.len()).min(source.len());
                out.extend(source[i..stop].iter().map(|c| blank(*c)));
                i = stop;
            }
            '"' => {
                out.push('"');
                i += 1;
                while i < source.len() && source[i] != '"' {
                    if source[i] == '\\' && i + 1 < source.len() {
                        out.push(' ');
                        i += 1;
                    }
                    out.push(blank(source[i]));
                    i += 1;
                }
                if i < source.len() {
                    out.push('"');
                    i += 1;
                }
            }
            // A character, not a lifetime: 'x' or '\…'.
            '\'' if next == Some('\\') || source.get(i + 2) == Some(&'\'') => {
                let from = if next == Some('\\') { i + 3 } else { i + 2 };
                let close = (from..source.len()).find(|&at| source[at] == '\'').unwrap_or(source.len() - 1);
                out.extend(source[i..=close].iter().map(|c| blank(*c)));
                i = close + 1;
            }
            c => {
                out.push(c);
                i += 1;
            }
        }
    }
    out
}

/// The count of `#` if a raw string starts at `i`.
fn raw_string_hashes(source: &[char], i: usize) -> Option<usize> {
    // `r` must not be the end of a name; the `b` of `br"…"` may precede it.
    let before = i.checked_sub(1).map(|b| source[b]);
    if before.is_some_and(|c| (c.is_alphanumeric() && c != 'b') || c == '_') {
        return None;
    }
    let hashes = source[i + 1..].iter().take_while(|c| **c == '#').count();
    (source.get(i + 1 + hashes) == Some(&'"')).then_some(hashes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Vec<&'static str> {
        let mut findings = Vec::new();
        check("src/example.rs", text, &mut findings);
        findings.iter().map(|f| f.rule).collect()
    }

    #[test]
    fn each_rule_finds_what_it_bans() {
        assert_eq!(rules("//! Head.\nfn f() {}\n"), Vec::<&str>::new());
        assert_eq!(rules("fn f() {}\n"), ["head"]);
        assert_eq!(rules("//! Head.\nfn f() { todo!() }\n"), ["unfinished"]);
        assert_eq!(rules("//! Head.\n#[ignore]\n"), ["unfinished"]);
        assert_eq!(rules(concat!("//! Head.\n// FIX", "ME later\n")), ["unfinished"]);
        assert_eq!(rules("//! Head.\nstatic COUNT: AtomicU64 = AtomicU64::new(0);\n"), ["static"]);
        assert_eq!(rules("//! Head.\npub(crate) static mut X: u8 = 0;\n"), ["static"]);
        assert_eq!(rules("//! Head.\nstatic TABLE:\n    OnceLock<u8> = OnceLock::new();\n"), ["static"]);
        assert_eq!(rules("//! Head.\nthread_local! { }\n"), ["static"]);
        assert_eq!(rules("//! Head.\ntokio::select! {\n  a = b => {}\n}\n"), ["select"]);
        assert_eq!(rules("//! Head.\nlet x = 1; \n"), ["space"]);
        assert_eq!(rules("//! Head.\n\tlet x = 1;\n"), ["tab"]);
        assert_eq!(rules(concat!("//! Head.\n<<<<", "<<< ours\n")), ["conflict"]);
        assert_eq!(rules(concat!("//! Head.\n// see /wo", "rk/notes\n")), ["machine-path"]);
        let long = format!("//! Head.\n{}", "fn f() {}\n".repeat(FILE_LINES_MAX));
        assert_eq!(rules(&long), ["long-file"]);
    }

    #[test]
    fn what_is_fine_is_left_alone() {
        assert_eq!(rules("//! Head.\ntokio::select! {\n  biased;\n  a = b => {}\n}\n"), Vec::<&str>::new());
        assert_eq!(rules("//! Head.\nstatic NAMES: [&str; 2] = [\"a\", \"todo!()\"];\n"), Vec::<&str>::new());
        assert_eq!(rules("//! Head.\n// select! and todo! in a comment\n/* static mut */\n"), Vec::<&str>::new());
        assert_eq!(rules("//! Head.\nlet s = r#\"todo!() \" thread_local!\"#;\n"), Vec::<&str>::new());
        assert_eq!(rules("//! Head.\nfn f<'a>(c: char) -> bool { c == '\"' }\n"), Vec::<&str>::new());
        assert_eq!(rules("//! Head.\n// tidy-allow: static, set once by the signal handler\nstatic STOP: AtomicBool = A;\n"), Vec::<&str>::new());
        let long_tests = format!("//! Head.\n#[cfg(test)]\nmod tests {{\n{}}}\n", "fn f() {}\n".repeat(FILE_LINES_MAX));
        assert_eq!(rules(&long_tests), Vec::<&str>::new());
    }
}
