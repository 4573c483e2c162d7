// SPDX-License-Identifier: Apache-2.0
//! `fanfold new`: a folder with a function that builds, tests and runs.
//!
//! The templates lie under `cli/templates` and are part of this program. A
//! folder appears whole or not at all, and nothing that is there is touched.

use std::{
    fs,
    path::{Path, PathBuf},
};

use fanfold_protocol::names::FunctionName;

use crate::{
    args::{New, Template},
    error::{Error, Result},
    output,
};

/// The SDK of the checkout that this program was built from, if it still lies there.
const CHECKOUT_SDK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../sdk");
/// The SDK's package. No registry has it, so a folder is made for one that lies on this machine.
const SDK_PACKAGE: &str = "fanfold-sdk";
/// Why a handler's manifest leaves out what the SDK has by itself.
const HANDLER_FEATURES_NOTE: &str = "\
# A handler needs neither the feature `tables` (rows, maps, aggregates) nor `stats` (sketches), and compiles
# faster without. Take `default-features = false` out to have both.
";
/// Package names that the compiler gives a meaning of its own.
const RESERVED: [&str; 8] = ["alloc", "core", "proc-macro", "std", "test", "fanfold-sdk", "serde", "build"];
/// Keywords (Rust reference, edition 2024) that are allowed names of functions.
const KEYWORDS: &[&str] = &[
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate", "do", "dyn",
    "else", "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl", "in", "let", "loop",
    "macro", "match", "mod", "move", "mut", "override", "priv", "pub", "ref", "return", "self", "static",
    "struct", "super", "trait", "true", "try", "type", "typeof", "unsafe", "unsized", "use", "virtual",
    "where", "while", "yield",
];

macro_rules! template {
    ($path:literal) => {
        include_str!(concat!("../../templates/", $path))
    };
}

/// Makes the folder.
pub fn run(args: &New) -> Result<()> {
    let folder = PathBuf::from(&args.name);
    let name = name_of(&folder)?;
    if folder.exists() {
        return Err(Error::usage(format!(
            "expected nothing at {}, found something there already",
            folder.display()
        ))
        .help("choose another name, or remove what is there"));
    }
    let variable = || std::env::var_os("FANFOLD_SDK").filter(|value| !value.is_empty()).map(PathBuf::from);
    let sdk = sdk(args.sdk.clone().or_else(variable).as_deref(), Path::new(CHECKOUT_SDK))?;
    write(&folder, &files(args.template, &name, &sdk))?;
    let shown = folder.display();
    output::note(format!(
        "made {shown}\n\n  cd {shown}\n  fanfold build\n  fanfold deploy .     (the service is started by `fanfold dev`)\n  fanfold invoke {name}"
    ));
    Ok(())
}

fn name_of(folder: &Path) -> Result<FunctionName> {
    let last = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let name: FunctionName = last.parse()?;
    if KEYWORDS.contains(&name.as_str()) || RESERVED.contains(&name.as_str()) {
        return Err(Error::usage(format!("expected a name that Rust has no meaning for, found {name}"))
            .help(format!("choose another name, such as my-{name}")));
    }
    Ok(name)
}

/// The SDK's folder: the one that was named, else that of the checkout.
fn sdk(named: Option<&Path>, checkout: &Path) -> Result<PathBuf> {
    let help = "name the folder `sdk` of a checkout of Fanfold by --sdk or FANFOLD_SDK";
    match named {
        Some(folder) => is_sdk(folder).ok_or_else(|| {
            let (wanted, at) = (SDK_PACKAGE, folder.display());
            Error::usage(format!("expected the package {wanted} in {at}, found none")).help(help)
        }),
        None => is_sdk(checkout).ok_or_else(|| {
            Error::usage(format!(
                "expected the package {SDK_PACKAGE}, which no registry has, in the checkout that this program was built \
                 from, found none at {}",
                checkout.display()
            ))
            .help(help)
        }),
    }
}

/// The folder by its whole path, if it is the SDK's.
fn is_sdk(folder: &Path) -> Option<PathBuf> {
    let folder = folder.canonicalize().ok()?;
    let manifest: toml::Table = fs::read_to_string(folder.join("Cargo.toml")).ok()?.parse().ok()?;
    let package = manifest.get("package")?.get("name")?.as_str()?;
    (package == SDK_PACKAGE).then_some(folder)
}

/// Every file of the folder with its text.
fn files(template: Template, name: &FunctionName, sdk: &Path) -> Vec<(&'static str, String)> {
    let (source, readme, description) = match template {
        Template::Handler => {
            (template!("handler/lib.rs"), template!("handler/README.md"), "greets whoever calls")
        }
        Template::Map => (template!("map/lib.rs"), template!("map/README.md"), "puts orders into bands"),
        Template::Aggregate => {
            (template!("aggregate/lib.rs"), template!("aggregate/README.md"), "totals of orders by country")
        }
    };
    let job = match template {
        Template::Handler => None,
        Template::Map => Some(template!("map/job.toml.in")),
        Template::Aggregate => Some(template!("aggregate/job.toml.in")),
    };
    let (features, features_note) = match template {
        Template::Handler => (", default-features = false", HANDLER_FEATURES_NOTE),
        Template::Map | Template::Aggregate => ("", ""),
    };
    let filled = |text: &str| {
        text.replace("{{name}}", name.as_str())
            .replace("{{description}}", description)
            .replace("{{sdk}}", &dependency(sdk))
            .replace("{{features_note}}", features_note)
            .replace("{{features}}", features)
            .replace("{{sdk_note}}", &note(sdk))
    };
    let mut files = vec![
        ("Cargo.toml", filled(template!("Cargo.toml.in"))),
        ("src/lib.rs", filled(source)),
        ("function.toml", filled(template!("function.toml.in"))),
        ("README.md", filled(readme)),
        (".gitignore", filled(template!("gitignore.in"))),
    ];
    if let Some(job) = job {
        files.push(("job.toml", filled(job)));
        files.push(("orders.csv", template!("orders.csv").to_owned()));
    }
    files
}

fn dependency(sdk: &Path) -> String {
    // JSON's quoting of a path is TOML's too.
    format!("path = {}", serde_json::Value::from(sdk.to_string_lossy()))
}

fn note(sdk: &Path) -> String {
    format!(
        "\n`Cargo.toml` takes `{SDK_PACKAGE}` from {}. On another machine write the path of the\n\
         folder `sdk` in a checkout of Fanfold there; no registry has it.",
        sdk.display()
    )
}

fn write(folder: &Path, files: &[(&str, String)]) -> Result<()> {
    let failed =
        |cause: std::io::Error| Error::usage(format!("{} could not be made: {cause}", folder.display()));
    let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(failed)?;
    let draft = tempfile::Builder::new().prefix(".fanfold-new-").tempdir_in(parent).map_err(failed)?;
    let inner = draft.path().join("function");
    for (name, text) in files {
        let path = inner.join(name);
        fs::create_dir_all(path.parent().unwrap_or(&inner))
            .and_then(|()| fs::write(&path, text))
            .map_err(failed)?;
    }
    fs::rename(&inner, folder).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;

    #[test]
    fn nothing_is_left_to_fill_in() {
        for template in [Template::Handler, Template::Map, Template::Aggregate] {
            for (file, text) in files(template, &"my-fn".parse().unwrap(), Path::new("/some where/sdk")) {
                assert!(
                    !text.contains("{{") || file == "src/lib.rs" && !text.contains("{{n"),
                    "{file}: {text}"
                );
                assert!(text.ends_with('\n'), "{file}");
            }
        }
    }

    #[test]
    fn manifests_and_settings_are_read_back() {
        let name: FunctionName = "my-fn".parse().unwrap();
        for template in [Template::Handler, Template::Map, Template::Aggregate] {
            let files = files(template, &name, Path::new("/some \"where\"/sdk"));
            let text =
                |wanted: &str| files.iter().find(|(file, _)| *file == wanted).map(|(_, text)| text.as_str());
            let manifest: toml::Table = text("Cargo.toml").unwrap().parse().unwrap();
            let sdk = &manifest["dependencies"]["fanfold-sdk"];
            assert_eq!(sdk["path"].as_str(), Some("/some \"where\"/sdk"));
            assert_eq!(sdk.get("default-features").is_some(), template == Template::Handler);
            let noted = text("Cargo.toml").unwrap().contains("`tables`");
            assert_eq!(noted, template == Template::Handler);
            let settings =
                crate::build::settings::parse("function.toml", text("function.toml").unwrap()).unwrap();
            assert_eq!(settings.name, name);
            if let Some(job) = text("job.toml") {
                let job: fanfold_protocol::job::JobDocument = toml::from_str(job).unwrap();
                assert_eq!(job.check(), Ok(()));
                assert_eq!(job.function.name, name);
            }
        }
    }

    #[test]
    fn the_sdk_is_the_one_that_is_named_or_the_checkout_s() {
        let dir = tempfile::tempdir().unwrap();
        let place = |name: &str| dir.path().join(name);
        for (folder, package) in [("named", SDK_PACKAGE), ("checkout", SDK_PACKAGE), ("other", "other")] {
            fs::create_dir(place(folder)).unwrap();
            let manifest = format!("[package]\nname = {package:?}\n");
            fs::write(place(folder).join("Cargo.toml"), manifest).unwrap();
        }
        let check = |named: Option<&str>, checkout: &str, expected: Option<&str>| {
            let found = sdk(named.map(place).as_deref(), &place(checkout));
            let expected = expected.map(|folder| place(folder).canonicalize().unwrap());
            assert_eq!(found.as_ref().ok(), expected.as_ref(), "{named:?}, {checkout}");
            if let Err(error) = found {
                assert_eq!(error.exit(), Exit::Usage);
                assert!(error.advice().contains("--sdk"), "{error}: {}", error.advice());
            }
        };
        check(None, "checkout", Some("checkout"));
        check(Some("named"), "checkout", Some("named"));
        check(Some("named"), "gone", Some("named"));
        check(Some("other"), "checkout", None);
        check(Some("gone"), "checkout", None);
        check(None, "gone", None);
    }

    #[test]
    fn names_are_those_of_functions_and_packages() {
        let check = |name: &str, good: bool| assert_eq!(name_of(Path::new(name)).is_ok(), good, "{name}");
        check("hello", true);
        check("some/where/credit-score", true);
        check("Hello", false);
        check("fn", false);
        check("core", false);
        check("..", false);
        check("", false);
    }
}
