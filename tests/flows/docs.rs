// SPDX-License-Identifier: Apache-2.0
//! The documents keep their word: commands in them are taken by the programs,
//! links lead somewhere, and decisions and glossary are whole.
//!
//! A command of `fanfold` is given to the real program with `--help` behind it,
//! which then reads everything before that and runs nothing. Invariant: all
//! mistakes are told together, each with its file and line.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use fanfold_tests::service::program;

/// Words that stand for something of the reader's own, and what stands for them here.
const PLACEHOLDERS: &[(&str, &str)] = &[
    ("ID", "00000000-0000-0000-0000-000000000000"),
    ("$ID", "00000000-0000-0000-0000-000000000000"),
    ("NAME", "name"),
    ("ALIAS", "alias"),
    ("VERSION", "1"),
    ("N", "1"),
    ("URI", "s3://bucket/"),
];

/// A place in a document.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    file: PathBuf,
    line: usize,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// A document, taken apart.
#[derive(Debug, Default)]
struct Document {
    /// Lines of blocks marked `sh` or `console` that are to be typed.
    typed: Vec<(usize, String)>,
    /// Paragraphs outside of blocks, each with the line it begins in.
    prose: Vec<(usize, String)>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .canonicalize()
        .unwrap_or_else(|e| panic!("the root: {e}"))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Every document of the project, relative to its root.
fn documents() -> Vec<PathBuf> {
    let mut found: Vec<_> = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "protocol/wit/CHANGELOG.md"]
        .into_iter()
        .chain(["functions/data/README.md", "functions/hostile/README.md"])
        .map(PathBuf::from)
        .collect();
    let mut folders = vec![PathBuf::from("docs")];
    while let Some(folder) = folders.pop() {
        let entries =
            std::fs::read_dir(root().join(&folder)).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        for entry in entries.flatten() {
            let path = folder.join(entry.file_name());
            if root().join(&path).is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "md") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// What a newly made function brings along, with a name filled in.
fn templates() -> Vec<(PathBuf, String)> {
    let path = |kind: &str| PathBuf::from(format!("cli/templates/{kind}/README.md"));
    let paths = ["handler", "map", "aggregate"].map(path);
    paths.into_iter().map(|p| (p.clone(), read(&root().join(p)).replace("{{name}}", "name"))).collect()
}

fn parse(text: &str) -> Document {
    let mut document = Document::default();
    let (mut block, mut joined): (Option<String>, Option<(usize, String)>) = (None, None);
    let mut paragraph: Option<(usize, String)> = None;
    for (number, line) in (1..).zip(text.lines()) {
        if let Some(kind) = line.trim_start().strip_prefix("```") {
            block = if block.is_some() { None } else { Some(kind.trim().to_owned()) };
            document.prose.extend(paragraph.take());
            continue;
        }
        match block.as_deref() {
            Some("sh" | "console") => {
                let typed = match (&joined, block.as_deref(), line.strip_prefix("$ ")) {
                    (Some(_), ..) | (None, Some("sh"), _) => Some(line),
                    (None, _, prompted) => prompted,
                };
                let Some(typed) = typed else { continue };
                let (start, mut whole) = joined.take().unwrap_or((number, String::new()));
                whole.push_str(typed.strip_suffix('\\').unwrap_or(typed));
                if typed.ends_with('\\') {
                    joined = Some((start, whole));
                } else {
                    document.typed.push((start, whole));
                }
            }
            Some(_) => {}
            None if line.trim().is_empty() => document.prose.extend(paragraph.take()),
            None => {
                let (_, text) = paragraph.get_or_insert((number, String::new()));
                text.push_str(line.trim());
                text.push(' ');
            }
        }
    }
    document.prose.extend(paragraph);
    document
}

/// The simple commands of a shell line, as words.
fn commands(line: &str) -> Vec<Vec<String>> {
    let mut all = vec![Vec::new()];
    let (mut word, mut quote): (Option<String>, Option<char>) = (None, None);
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, c) if c.is_whitespace() || matches!(c, '&' | '|' | ';') => {
                all.last_mut().into_iter().for_each(|command| command.extend(word.take()));
                if !c.is_whitespace() {
                    all.push(Vec::new());
                }
            }
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    all.last_mut().into_iter().for_each(|command| command.extend(word.take()));
    let is_variable = |word: &String| {
        word.split_once('=')
            .is_some_and(|(name, _)| name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'))
    };
    for command in &mut all {
        let variables = command.iter().take_while(|word| is_variable(word)).count();
        command.drain(..variables);
        if let Some(end) = command.iter().position(|word| word.starts_with('>')) {
            command.truncate(end);
        }
    }
    all.retain(|command| !command.is_empty());
    all
}

/// Commands within a sentence, such as `fanfold doctor`. Forms with options to
/// choose from are no commands.
fn in_prose(paragraph: &str) -> Vec<Vec<String>> {
    let code = paragraph.split('`').skip(1).step_by(2);
    let whole = code.filter(|code| !code.contains(['…', '[', '|', '<', '{']));
    whole
        .filter(|code| code.starts_with("fanfold ") || code.starts_with("cargo xtask "))
        .flat_map(commands)
        .collect()
}

/// Every command of `fanfold` and of `cargo xtask`, with where it stands.
fn all_commands() -> BTreeMap<Vec<String>, Place> {
    let read_in = |file: PathBuf| (file.clone(), read(&root().join(file)));
    let mut found = BTreeMap::new();
    for (file, text) in documents().into_iter().map(read_in).chain(templates()) {
        let Document { typed, prose } = parse(&text);
        let typed = typed.iter().flat_map(|(line, text)| commands(text).into_iter().map(|c| (*line, c)));
        let said = prose.iter().flat_map(|(line, text)| in_prose(text).into_iter().map(|c| (*line, c)));
        for (line, command) in typed.chain(said) {
            found.entry(command).or_insert_with(|| Place { file: file.clone(), line });
        }
    }
    found
}

fn filled(word: &str) -> &str {
    PLACEHOLDERS.iter().find(|(name, _)| *name == word).map_or(word, |(_, value)| value)
}

/// Why the program does not take these words.
fn refusal(words: &[String]) -> Option<String> {
    let mut command = Command::new(program());
    command.args(words.iter().map(|word| filled(word))).arg("--help").stdin(Stdio::null());
    let output = command.output().unwrap_or_else(|e| panic!("{}: {e}", program().display()));
    if output.status.success() {
        return None;
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Some(said.lines().next().unwrap_or("it says nothing").to_owned())
}

/// Each command of `cargo xtask` with what its usage says.
fn xtask_usage() -> BTreeMap<String, String> {
    let path = program().with_file_name("xtask");
    let output = Command::new(&path).arg("help").stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|e| panic!("{}: {e}; run `cargo xtask setup`", path.display()));
    let mut usage: BTreeMap<String, String> = BTreeMap::new();
    let mut name = String::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        if let Some(rest) = line.strip_prefix("  ").filter(|rest| !rest.starts_with(' ')) {
            name = rest.split_whitespace().next().unwrap_or_default().to_owned();
        }
        usage.entry(name.clone()).or_default().push_str(line);
    }
    usage
}

#[test]
fn commands_are_those_of_the_programs() {
    let usage = xtask_usage();
    assert!(usage.len() > 4, "{usage:?}");
    let (mut wrong, mut checked) = (Vec::new(), 0);
    for (command, place) in all_commands() {
        let shown = command.join(" ");
        match command.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["fanfold", ..] => {
                checked += 1;
                wrong.extend(refusal(&command[1..]).map(|why| format!("{place}: {shown}: {why}")));
            }
            ["cargo", "xtask", name, options @ ..] => {
                checked += 1;
                let Some(usage) = usage.get(*name) else {
                    wrong.push(format!("{place}: {shown}: expected one of {:?}", usage.keys()));
                    continue;
                };
                let unknown = options.iter().filter(|o| o.starts_with("--") && !usage.contains(**o));
                wrong.extend(unknown.map(|option| format!("{place}: {shown}: there is no {option}")));
            }
            _ => {}
        }
    }
    assert!(wrong.is_empty(), "commands that do not work:\n{}", wrong.join("\n"));
    assert!(checked > 30, "expected the commands of the guide, found {checked}");
}

#[test]
fn parts_of_the_bench_are_described() {
    let path = program().with_file_name("fanfold-bench");
    let output = Command::new(&path).arg("--help").stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|e| panic!("{}: {e}; run `cargo xtask setup`", path.display()));
    let help = String::from_utf8_lossy(&output.stdout);
    let named = help.split_once("[possible values: ").and_then(|(_, rest)| rest.split_once(']'));
    let (named, _) = named.unwrap_or_else(|| panic!("expected the parts in the help, found {help}"));
    let named: BTreeSet<&str> = named.split(',').map(str::trim).collect();
    let text = read(&root().join("CONTRIBUTING.md"));
    let section = text.split("\n## ").find(|section| section.starts_with("What the bench measures\n"));
    let rows =
        section.unwrap_or_default().lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let described: BTreeSet<&str> = rows.map(|(name, _)| name).collect();
    assert_eq!(described, named);
    assert!(named.len() > 10, "{named:?}");
}

/// Names of a document's headings as links have them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text
        .lines()
        .filter_map(|line| line.trim_start_matches('#').strip_prefix(' ').filter(|_| line.starts_with('#')));
    headings
        .map(|heading| {
            let kept = heading
                .to_lowercase()
                .chars()
                .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
                .collect::<String>();
            kept.trim().replace(' ', "-")
        })
        .collect()
}

/// What the links of a paragraph point at, those into the network aside.
fn links(paragraph: &str) -> Vec<&str> {
    let targets = paragraph.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.filter(|target| !target.contains("://") && !target.starts_with("mailto:")).collect()
}

#[test]
fn links_lead_somewhere() {
    let (mut wrong, mut checked) = (Vec::new(), 0);
    for file in documents() {
        let text = read(&root().join(&file));
        for (line, paragraph) in parse(&text).prose {
            for link in links(&paragraph) {
                checked += 1;
                let (target, anchor) = link.split_once('#').map_or((link, None), |(t, a)| (t, Some(a)));
                let path = if target.is_empty() {
                    root().join(&file)
                } else {
                    root().join(file.parent().unwrap_or(Path::new(""))).join(target)
                };
                let place = Place { file: file.clone(), line };
                if !path.exists() {
                    wrong.push(format!("{place}: nothing is at {link}"));
                } else if anchor.is_some_and(|anchor| !anchors(&read(&path)).contains(anchor)) {
                    wrong.push(format!("{place}: no heading is at {link}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "links that lead nowhere:\n{}", wrong.join("\n"));
    assert!(checked > 30, "expected the links of the documents, found {checked}");
}

/// Names as keys and metrics have them: words joined by `_`, within tables or not.
fn settings(paragraph: &str) -> Vec<&str> {
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '.');
    let code = paragraph.split('`').skip(1).step_by(2);
    code.filter(|code| code.contains('_') && code.chars().all(is_name)).collect()
}

#[test]
fn settings_that_operators_are_told_of_exist() {
    assert_eq!(settings("a_b `c_d.e`, `f`, `g_h = 1` and `i_j`"), ["c_d.e", "i_j"]);
    let places =
        ["docs/configuration.md", "docs/guide-jobs.md", "docs/metrics.md", "deploy/compose/compose.yaml"];
    let known: String = places.map(|place| read(&root().join(place))).concat();
    let guide = read(&root().join("docs/guide-operations.md"));
    let (mut unknown, mut checked) = (Vec::new(), 0);
    for (line, paragraph) in parse(&guide).prose {
        let named = settings(&paragraph);
        checked += named.len();
        let strange = named.into_iter().filter(|name| !known.contains(*name));
        unknown.extend(strange.map(|name| format!("docs/guide-operations.md:{line}: there is no {name}")));
    }
    assert!(unknown.is_empty(), "{}", unknown.join("\n"));
    assert!(checked > 8, "expected the settings of the guide, found {checked}");
}

/// The words of the program: its sources, with texts that go on in a next line joined.
fn own_words() -> String {
    let mut text = String::new();
    let parts = ["protocol", "storage", "backbone", "runtime", "gateway", "cli", "sdk"];
    let mut folders = parts.map(|part| root().join(part).join("src")).to_vec();
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                text.push_str(&read(&path));
            }
        }
    }
    text.split("\\\n").map(str::trim_start).collect()
}

/// What stands between names and numbers in an example is what the program says: four of its words in a row.
#[test]
fn examples_of_problems_are_in_the_words_of_the_program() {
    let (words, mut strange, mut checked) = (own_words(), Vec::new(), 0);
    // Their words are the function's own.
    let told_by_functions = ["function-error", "guest-panicked"];
    for file in documents().into_iter().filter(|file| file.starts_with("docs/errors")) {
        let code = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if told_by_functions.contains(&code.as_str()) {
            continue;
        }
        checked += 1;
        let text = read(&root().join(&file));
        let example = text.split("```json").nth(1).and_then(|rest| rest.split("```").next());
        let example: serde_json::Value = serde_json::from_str(example.unwrap_or_default())
            .unwrap_or_else(|e| panic!("the example of {code}: {e}"));
        let detail: Vec<&str> = example["detail"].as_str().unwrap_or_default().split(' ').collect();
        if !detail.windows(4).any(|run| words.contains(&run.join(" "))) {
            strange.push(format!("{}: nothing says {:?}", file.display(), detail.join(" ")));
        }
    }
    assert!(strange.is_empty(), "{}", strange.join("\n"));
    assert!(checked > 60, "expected a page for each kind, found {checked}");
}

#[test]
fn decisions_are_numbered_in_order_and_listed() {
    let folder = root().join("docs/decisions");
    let index = read(&folder.join("README.md"));
    let all = documents()
        .into_iter()
        .filter(|file| file.starts_with("docs/decisions") && !file.ends_with("README.md"));
    let (mut count, mut last) = (0, 0);
    for file in all {
        count += 1;
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // A number that was set aside and not needed leaves a gap; none stands twice.
        let number: u32 = name.split('-').next().and_then(|digits| digits.parse().ok()).unwrap_or_default();
        assert!(
            number > last && name.starts_with(&format!("{number:04}-")),
            "expected a number of its own, found {name}"
        );
        last = number;
        let text = read(&root().join(&file));
        assert!(text.starts_with(&format!("# {number:04}: ")), "{name} must begin with its number");
        for section in
            ["\n## Context\n", "\n## Decision\n", "\n## Consequences\n", "\n## What else was considered\n"]
        {
            assert!(text.contains(section), "{name} has no section {}", section.trim());
        }
        assert!(
            index.contains(&format!("[{number:04}]({name})")),
            "docs/decisions/README.md does not list {name}"
        );
    }
    assert!(count >= 12, "expected the decisions, found {count}");
}

/// Whether a word stands for an entry, in any of its forms.
fn is_form(word: &str, entries: &BTreeSet<String>) -> bool {
    ["", "s", "es", "d", "'s"]
        .iter()
        .any(|end| word.strip_suffix(end).is_some_and(|stem| entries.contains(stem)))
}

#[test]
fn words_of_the_glossary_have_entries() {
    let text = read(&root().join("docs/glossary.md"));
    let body: String = text.split("\n## ").skip(1).collect();
    let entries: BTreeSet<String> = body.split("**").skip(1).step_by(2).map(str::to_owned).collect();
    let defined =
        body.lines().filter_map(|line| line.strip_prefix("- **")?.split("**").next()).collect::<Vec<_>>();
    assert_eq!(
        defined.len(),
        defined.iter().collect::<BTreeSet<_>>().len(),
        "an entry stands twice: {defined:?}"
    );
    let without_code: String = body.split('`').step_by(2).collect();
    let plain: String = without_code.split("**").step_by(2).collect();
    let used = plain.split('*').skip(1).step_by(2);
    let unknown: Vec<_> = used
        .map(|word| word.split_whitespace().collect::<Vec<_>>().join(" "))
        .filter(|word| !is_form(word, &entries))
        .collect();
    assert!(unknown.is_empty(), "words without an entry: {unknown:?}");
    assert!(defined.len() > 40, "{defined:?}");
}

#[test]
fn shell_lines_are_read() {
    let check = |line: &str, expected: &[&[&str]]| assert_eq!(commands(line), expected, "{line}");
    check("fanfold new x && cd x # and go on", &[&["fanfold", "new", "x"], &["cd", "x"]]);
    check(
        r#"A=1 fanfold invoke f -d '{"a": "b c"}' > out"#,
        &[&["fanfold", "invoke", "f", "-d", r#"{"a": "b c"}"#]],
    );
    check("export PATH=\"$PWD/x:$PATH\"", &[&["export", "PATH=$PWD/x:$PATH"]]);
    let document = parse("a `fanfold doctor`\nb\n\n```console\n$ fanfold \\\n  dev\nsaid\n```\n");
    assert_eq!(document.typed, [(5, "fanfold   dev".to_owned())]);
    assert_eq!(in_prose(&document.prose[0].1), [["fanfold", "doctor"]]);
    assert_eq!(links("see [a](b.md#c) and [d](https://e)"), ["b.md#c"]);
    assert!(anchors("# A *b*, c-d\n").contains("a-b-c-d"));
}
