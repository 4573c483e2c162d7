// SPDX-License-Identifier: Apache-2.0
//! The program as a person meets it, as far as it needs no service: exit codes,
//! what goes to which stream, and the folders of `fanfold new`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output, Stdio},
    sync::mpsc::Receiver,
    time::Duration,
};

struct Here {
    folder: tempfile::TempDir,
}

impl Here {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The program with nothing of this machine's user in its environment.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fanfold"));
        command
            .args(words)
            .current_dir(self.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.path())
            .env("XDG_CONFIG_HOME", self.path().join("config"))
            .stdin(Stdio::null());
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    /// Runs and expects an exit code, and a word of what is said.
    #[track_caller]
    fn check(&self, words: &[&str], code: i32, said: &str) {
        let output = self.run(words);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {text}");
        assert!(text.contains(said), "{words:?}: expected {said:?} in {text}");
        assert!(output.stdout.is_empty(), "{words:?}: errors do not belong to standard output");
    }
}

/// A port on which nothing listens.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn the_log_is_text_or_json() {
    let here = Here::new();
    let said = |format: &str| {
        // What is logged whatever the command.
        let mut command = here.command(&["completions", "bash"]);
        let output =
            command.env("RUST_LOG", "fanfold=loud").env("FANFOLD_LOG_FORMAT", format).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let json: serde_json::Value = serde_json::from_str(&said("json")).unwrap();
    let message = json["fields"]["message"].as_str().unwrap();
    assert!(json["level"] == "WARN" && message.starts_with("RUST_LOG was not taken"), "{json}");
    assert!(said("text").contains(" WARN fanfold::log: RUST_LOG was not taken"), "{}", said("text"));
    let wrong = said("xml");
    assert!(
        wrong.contains("FANFOLD_LOG_FORMAT was not taken: expected text or json, found \"xml\""),
        "{wrong}"
    );
}

#[test]
fn wrong_use_is_told_apart() {
    let here = Here::new();
    here.check(&["frobnicate"], 2, "frobnicate");
    here.check(&["invoke", "Not_A_Name"], 2, "function name");
    here.check(&["invoke", "f", "-d", "{\"a\": }"], 2, "line 1, column 7");
    std::fs::write(here.path().join("line.json"), format!("[{}x]", "1, ".repeat(100_000))).unwrap();
    let shown = here.run(&["invoke", "f", "-d", "@line.json"]);
    assert_eq!((shown.status.code(), shown.stderr.len() < 4_000), (Some(2), true));
    here.check(&["invoke", "f", "-d", "@no-such-file"], 2, "no-such-file");
    here.check(&["invoke", "f", "--params", "[1]"], 2, "JSON object");
    here.check(&["invoke", "f", "--endpoint", "127.0.0.1:7070"], 2, "http://");
    here.check(&["functions", "ls", "--token", "a\nb"], 2, "a token that fits into a header");
    here.check(&["job", "run", "no-such.toml"], 2, "no-such.toml");
    here.check(&["job", "run", "score@prod"], 2, "by --function score@prod --input");
    here.check(&["job", "run", "--function", "f", "--input", "bank/a"], 2, "s3://bucket/key");
    std::fs::create_dir(here.path().join("band")).unwrap();
    std::fs::write(here.path().join("band/job.toml"), "function = \"band\"\n").unwrap();
    here.check(&["job", "run", "band"], 2, "did you mean band/job.toml?");
    here.check(&["job", "run"], 2, "by --function, found neither");
    here.check(&["job", "run", "--input", "s3://bank/a"], 2, "by --function, found neither");
    here.check(&["trigger", "add", "t1", "--function", "hello"], 2, "found --function alone");
    here.check(&["trigger", "add", "t1", "--bucket", "bank"], 2, "found --bucket alone");
    here.check(&["trigger", "add", "t1"], 2, "found neither");
    here.check(&["job", "show", "seven"], 2, "'seven' for '<ID>': expected an id such as");
    for words in [
        &["job", "ls"][..],
        &["job", "tasks", "019ab4c2-7c1e-7bb0-9c5e-2f6f6d1b9d10"],
        &["invocations", "ls"],
        &["invocations", "dead-letters"],
        &["trigger", "dead-letters", "t1"],
    ] {
        for limit in ["--limit=0", "--limit=-1", "--limit=ten"] {
            here.check(&[words, &[limit]].concat(), 2, "a whole number of 1 or more");
        }
    }
    here.check(&["job", "ls", "--state", "runing"], 2, "a similar value exists: 'running'");
    here.check(&["job", "tasks", "019ab4c2-7c1e-7bb0-9c5e-2f6f6d1b9d10", "--state", "faild"], 2, "'failed'");
    here.check(&["invocations", "ls", "--state", "failed"], 2, "[possible values: queued, running]");
    here.check(&["dev", "--listen", "localhost"], 2, "expected an address and a port");
    here.check(&["deploy", "no-such-folder"], 2, "no-such-folder");
    here.check(&["deploy", ".", "--alias", "latest"], 2, "of its own");
    here.check(&["build"], 2, "Cargo.toml");
    std::fs::write(here.path().join("Cargo.toml"), "[package]\nname = \"f\"\n").unwrap();
    std::fs::write(here.path().join("function.toml"), "name = \"f\"\nmemroy = \"64MiB\"\n").unwrap();
    here.check(&["build"], 2, "function.toml:2");
    here.check(&["deploy", "."], 2, "memroy");
    here.check(&["s3", "cp", "a", "b"], 2, "s3://");
    here.check(&["s3", "cp", "--expected-size", "1GiB", "a", "s3://bank/b"], 2, "beside '-' alone");
    here.check(&["s3", "cp", "--expected-size", "1", "-", "s3://bank/b"], 2, "a whole number and a unit");
    here.check(&["s3", "ls", "s3://Bad_Bucket/"], 2, "bucket name");
    here.check(&["s3", "rm", "s3://bank/a/"], 2, "--recursive");
    here.check(&["s3", "ls", "--endpoint", "127.0.0.1:7070"], 2, "http://");
    here.check(&["s3", "rb", "s3://bank/in/"], 2, "a bucket such as s3://bank");
    here.check(&["completions", "basic"], 2, "bash");
    here.check(&["dev", "--listen", "0.0.0.0:0"], 2, "loopback");
    here.check(&["dev", "--workers", "0"], 2, "--workers");
    here.check(&["dev", "--memory", "1MiB"], 2, "at least 64MiB");
    here.check(&["dev", "--memory", "100TiB"], 2, "at most");
    here.check(&["logs", "Not A Name"], 2, "Not A Name");
    here.check(&["logs", "f", "--task", "0"], 2, "--task");
    let page = ["result", "019ab4c2-7c1e-7bb0-9c5e-2f6f6d1b9d10", "--html", "--output", "json"];
    here.check(&page, 2, "cannot be used with");
}

#[test]
fn what_has_no_end_is_refused() {
    let here = Here::new();
    here.check(&["invoke", "f", "-d", "@/dev/zero"], 2, "found: more than 32MiB");
    let zeros = std::fs::File::open("/dev/zero").unwrap();
    let piped = here.command(&["invoke", "f", "-d", "@-"]).stdin(zeros).output().unwrap();
    let said = String::from_utf8_lossy(&piped.stderr);
    assert_eq!(piped.status.code(), Some(2), "{said}");
    assert!(said.contains("from the standard input, found: more than 32MiB"), "{said}");
    here.check(&["job", "run", "/dev/zero"], 2, "found: more than 1MiB");
    here.check(&["invoke", "f", "--params", "@/dev/zero"], 2, "found: more than 1MiB");
    let params = ["--function", "f", "--input", "s3://bank/a", "--params", "@/dev/zero"];
    here.check(&[&["job", "run"][..], &params].concat(), 2, "found: more than 1MiB");
    here.check(&["trigger", "add", "t1", "/dev/zero"], 2, "found: more than 1MiB");
    here.check(&["deploy", "/dev/zero"], 2, "at most 64MiB, found more in /dev/zero");
}

#[test]
fn what_the_environment_gives_is_used_and_not_shown_as_required() {
    let here = Here::new();
    let endpoint = format!("http://127.0.0.1:{}", free_port());
    let run = |words: &[&str]| {
        let output = here.command(words).env("FANFOLD_ENDPOINT", &endpoint).output().unwrap();
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = run(&["job", "show"]);
    assert!(said.contains("Usage:") && !said.contains("--endpoint"), "{said}");
    let said = run(&["functions", "ls"]);
    assert!(said.contains(&endpoint), "{said}");
}

#[test]
fn who_is_told_all_needs_no_profile() {
    let here = Here::new();
    let endpoint = format!("http://127.0.0.1:{}", free_port());
    let keys = [
        ("AWS_ACCESS_KEY_ID", "k"),
        ("AWS_SECRET_ACCESS_KEY", "s"),
        ("FANFOLD_S3_ENDPOINT", endpoint.as_str()),
    ];
    let check = |command: &mut Command, words: &[&str], code: i32, said: &str| {
        let output = command.env("FANFOLD_ENDPOINT", &endpoint).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {text}");
        assert!(text.contains(said), "{words:?}: expected {said:?} in {text}");
    };
    // Nowhere to look: there is none.
    let functions = ["functions", "ls"];
    let homeless = |words: &[&str]| {
        let mut command = here.command(words);
        command.env_remove("HOME").env_remove("XDG_CONFIG_HOME");
        command
    };
    check(homeless(&functions).env("FANFOLD_TOKEN", "t"), &functions, 3, &endpoint);
    check(&mut homeless(&functions), &functions, 3, &endpoint);
    // A damaged file is told to whom it matters.
    std::fs::create_dir_all(here.path().join("config/fanfold")).unwrap();
    std::fs::write(here.path().join("config/fanfold/profiles.json"), "{").unwrap();
    check(here.command(&functions).env("FANFOLD_TOKEN", "t"), &functions, 3, &endpoint);
    check(&mut here.command(&functions), &functions, 2, "profiles.json");
    let store = ["s3", "env"];
    check(here.command(&store).envs(keys), &store, 0, "");
    check(&mut here.command(&store), &store, 2, "profiles.json");
}

#[test]
fn a_standard_output_that_is_full_is_named() {
    let here = Here::new();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let endpoint = format!("http://127.0.0.1:{}", free_port());
    let mut command = here.command(&["doctor", "--endpoint", &endpoint]);
    let output = command.stdout(full.try_clone().unwrap()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("to the standard output, found: No space left"), "{text}");

    // A service of which nobody hears has not started.
    let mut command = here.command(&["dev", "--listen", "127.0.0.1:0", "--s3-listen", "127.0.0.1:0"]);
    let output = command.stdout(full).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains("to the standard output, found: No space left"), "{text}");
    assert!(!here.path().join(".fanfold/dev.json").exists());
}

#[test]
fn what_the_service_writes_is_for_its_user_alone() {
    let here = Here::new();
    let folder = here.path().join("open");
    std::fs::create_dir(&folder).unwrap();
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777)).unwrap();
    let dev = "umask 000; exec \"$0\" dev --data open --listen 127.0.0.1:0 --s3-listen 127.0.0.1:0";
    let mut shell = Command::new("sh");
    shell.args(["-c", dev, env!("CARGO_BIN_EXE_fanfold")]).current_dir(here.path());
    shell.env("FANFOLD_CONFIG_DIR", here.path().join("config"));
    let mut program = shell.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(program.stdout.take().unwrap()).read_line(&mut first).unwrap();
    program.kill().unwrap();
    program.wait().unwrap();
    assert_eq!(first, "fanfold is ready\n");
    let (mut folders, mut found) = (vec![folder, here.path().join("config")], 0);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let (path, metadata) = (entry.as_ref().unwrap().path(), entry.unwrap().metadata().unwrap());
            assert_eq!(metadata.permissions().mode() & 0o077, 0, "{}", path.display());
            found += 1;
            folders.extend(metadata.is_dir().then_some(path));
        }
    }
    assert!(found > 10, "{found}");
}

#[test]
fn a_log_is_followed_as_long_as_somebody_reads() {
    let here = Here::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4_096]).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n").unwrap();
        let skipped = "event: invocations-skipped\ndata: {\"skipped\": 7}\n\n";
        let line = "event: log\ndata: {\"at\": 7, \"level\": \"info\", \"message\": \"m\"}\n\n";
        let lines = std::iter::once(skipped).chain(std::iter::repeat_n(line, 100_000));
        // Whoever reads to the end is told that the stream broke off.
        let _ = lines.map(str::as_bytes).try_for_each(|event| stream.write_all(event));
    });
    let mut command = here.command(&["logs", "f", "-f", "--endpoint", &endpoint]);
    let mut program = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(program.stdout.take().unwrap()).read_line(&mut first).unwrap();
    let ended = program.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{said}");
    assert!(first.ends_with("INFO   m\n") && said.contains("7 invocations"), "{first} {said}");
}

#[test]
fn a_log_that_broke_off_is_followed_further() {
    let here = Here::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let asked = std::thread::spawn(move || {
        let lines = ["one", "two"].map(|message| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4_096];
            let length = stream.read(&mut request).unwrap();
            let line = format!(
                "event: log\ndata: {{\"at\": 7, \"level\": \"info\", \"message\": \"{message}\"}}\n\n"
            );
            let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: text/event-stream\r\n\r\n";
            stream.write_all(format!("{head}{line}").as_bytes()).unwrap();
            String::from_utf8_lossy(&request[..length]).lines().next().unwrap().to_owned()
        });
        // Now something else listens there.
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4_096]).unwrap();
        stream
            .write_all(b"HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            .unwrap();
        lines
    });
    let output = here.command(&["logs", "f", "-f", "--endpoint", &endpoint]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    let lines = String::from_utf8_lossy(&output.stdout);
    let told: Vec<_> = lines.lines().map(|line| line.rsplit(' ').next().unwrap()).collect();
    assert_eq!(told, ["one", "two"], "{said}");
    assert!(said.contains("broke off; trying again") && said.contains("meanwhile is not shown"), "{said}");
    let [first, second] = asked.join().unwrap();
    assert!(!first.contains("limit") && second.contains("limit=0"), "{first} {second}");
}

#[test]
fn a_list_that_is_cut_says_so() {
    let here = Here::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for next in [", \"next\": \"3-0-7\"", ""] {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4_096]).unwrap();
            let body = format!("{{\"tasks\": [{{\"stage\": 0, \"task\": 7, \"state\": \"done\"}}]{next}}}");
            let length = body.len();
            let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
            stream.write_all((head + &body).as_bytes()).unwrap();
        }
    });
    let id = "019ab4c2-7c1e-7bb0-9c5e-2f6f6d1b9d10";
    for is_cut in [true, false] {
        let output = here.run(&["job", "tasks", id, "--limit", "1", "--endpoint", &endpoint]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("0/7"), "{output:?}");
        assert_eq!(said.contains("there are more than these 1; --limit N"), is_cut, "{said}");
    }
}

/// A store with one object, of which it gives the first half and then no more.
fn store_that_halts() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut requests = BufReader::new(stream.try_clone().unwrap()).lines();
                while let Some(Ok(first)) = requests.next() {
                    while requests.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
                    let (status, length) = match first.starts_with("HEAD") {
                        true => ("200 OK", 0),
                        false => ("206 Partial Content\r\ncontent-range: bytes 0-2047/2048", 1_024),
                    };
                    let head = format!("HTTP/1.1 {status}\r\ncontent-length: 2048\r\netag: \"e\"\r\n\r\n");
                    stream.write_all(head.as_bytes()).unwrap();
                    stream.write_all(&vec![b'x'; length]).unwrap();
                }
            });
        }
    });
    endpoint
}

#[test]
fn a_download_that_is_stopped_leaves_nothing() {
    let here = Here::new();
    let mut command = here.command(&["s3", "cp", "s3://bank/a", "to/a"]);
    command.env("FANFOLD_S3_ENDPOINT", store_that_halts());
    command.env("AWS_ACCESS_KEY_ID", "k").env("AWS_SECRET_ACCESS_KEY", "s").stderr(Stdio::piped());
    let program = command.spawn().unwrap();
    let files = || std::fs::read_dir(here.path().join("to")).map_or(0, Iterator::count);
    let begun = std::time::Instant::now();
    while files() == 0 {
        assert!(begun.elapsed().as_secs() < 20, "expected a file on its way, found none");
        std::thread::yield_now();
    }
    rustix::process::kill_process(rustix::process::Pid::from_child(&program), rustix::process::Signal::INT)
        .unwrap();
    let ended = program.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!((ended.status.code(), files()), (Some(130), 0), "{said}");
    assert!(said.contains("stopped before all was copied"), "{said}");
}

/// A store that begins uploads and answers none of their parts, nor, unless it `removes` them, what ends them.
/// It tells the method of each request.
fn store_that_takes_no_parts(removes: bool) -> (String, Receiver<String>) {
    const BEGUN: &str = "<InitiateMultipartUploadResult><Bucket>bank</Bucket><Key>a</Key><UploadId>u</UploadId>\
                         </InitiateMultipartUploadResult>";
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, tell) = (stream.unwrap(), tell.clone());
            std::thread::spawn(move || {
                let mut requests = BufReader::new(stream.try_clone().unwrap()).lines();
                while let Some(Ok(first)) = requests.next() {
                    while requests.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
                    let method = first.split(' ').next().unwrap();
                    let answer = match method {
                        "POST" => format!("200 OK\r\ncontent-length: {}\r\n\r\n{BEGUN}", BEGUN.len()),
                        "DELETE" if removes => "204 No Content\r\n\r\n".to_owned(),
                        _ => String::new(),
                    };
                    let _ = tell.send(method.to_owned());
                    if answer.is_empty() {
                        // Held until the program lets go of it.
                        let _ = std::io::copy(&mut stream, &mut std::io::sink());
                        return;
                    }
                    stream.write_all(format!("HTTP/1.1 {answer}").as_bytes()).unwrap();
                }
            });
        }
    });
    (endpoint, told)
}

#[test]
fn a_second_signal_ends_at_once_what_the_first_lets_end() {
    let interrupted = |removes: bool, at: &[&str]| {
        let here = Here::new();
        std::fs::write(here.path().join("a"), vec![b'x'; 9 << 20]).unwrap();
        let (endpoint, requests) = store_that_takes_no_parts(removes);
        let mut command = here.command(&["s3", "cp", "a", "s3://bank/a"]);
        command.env("FANFOLD_S3_ENDPOINT", endpoint).stderr(Stdio::piped());
        let program =
            command.env("AWS_ACCESS_KEY_ID", "k").env("AWS_SECRET_ACCESS_KEY", "s").spawn().unwrap();
        let pid = rustix::process::Pid::from_child(&program);
        for method in at {
            while requests.recv_timeout(Duration::from_secs(30)).unwrap() != *method {}
            rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        }
        let ended = program.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(130), "{said}");
        assert!(said.contains("once more to stop at once"), "{said}");
        said
    };
    let said = interrupted(true, &["PUT"]);
    assert!(said.contains("stopped before all was copied") && !said.contains("may still lie"), "{said}");
    // Without the second it would wait for the removal, and tell what became of it.
    let said = interrupted(false, &["PUT", "DELETE"]);
    assert!(!said.contains("stopped before all") && !said.contains("may still lie"), "{said}");
}

#[test]
fn a_standard_error_that_takes_nothing_changes_no_exit_code() {
    let here = Here::new();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let endpoint = format!("http://127.0.0.1:{}", free_port());
    let mut command = here.command(&["functions", "ls", "--endpoint", &endpoint]);
    assert_eq!(command.stderr(full).output().unwrap().status.code(), Some(3));
}

#[test]
fn mistakes_in_a_job_file_have_a_line() {
    let here = Here::new();
    std::fs::write(
        here.path().join("job.toml"),
        "function = \"f\"\ninput = \"s3://bank/a\"\nouptut = \"x\"\n",
    )
    .unwrap();
    here.check(&["job", "run", "job.toml"], 2, "job.toml:3: unknown field `ouptut`");
    let piped = std::fs::File::open(here.path().join("job.toml")).unwrap();
    let output = here.command(&["job", "run", "-"]).stdin(piped).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("the standard input:3: unknown field `ouptut`"), "{said}");
}

#[test]
fn parameters_of_a_call_may_lie_in_a_file() {
    let here = Here::new();
    std::fs::write(here.path().join("params.json"), "[1]").unwrap();
    here.check(&["invoke", "f", "--params", "@params.json"], 2, "a JSON object in params.json");
    std::fs::write(here.path().join("params.json"), "{\"a\": 1}").unwrap();
    let endpoint = format!("http://127.0.0.1:{}", free_port());
    here.check(&["invoke", "f", "--params", "@params.json", "--endpoint", &endpoint], 3, &endpoint);
}

#[test]
fn commands_have_the_names_that_people_try() {
    let here = Here::new();
    let functions = ["function list", "functions delete", "invocation list", "jobs list"];
    for words in functions.into_iter().chain(["triggers list", "trigger delete", "s3 list", "s3 delete"]) {
        let words: Vec<_> = words.split(' ').chain(["--help"]).collect();
        assert!(here.run(&words).status.success(), "{words:?}");
    }
}

#[test]
fn shells_complete_every_command() {
    let here = Here::new();
    for shell in ["bash", "zsh", "fish"] {
        let output = here.run(&["completions", shell]);
        let script = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && output.stderr.is_empty(), "{shell}");
        for word in ["fanfold", "functions", "dead-letters", "no-cache"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
}

#[test]
fn a_service_that_is_not_there_is_told_apart() {
    let here = Here::new();
    let endpoint = format!("http://127.0.0.1:{}", free_port());
    let id = "019ab4c2-7c1e-7bb0-9c5e-2f6f6d1b9d10";
    for words in [
        &["functions", "ls"][..],
        &["functions", "rollback", "f"],
        &["invoke", "f"],
        &["logs", "f"],
        &["job", "ls"],
        &["job", "watch", id],
        &["job", "run", "--function", "f", "--input", "s3://bank/a"],
        &["result", id],
    ] {
        let words = [words, &["--endpoint", &endpoint]].concat();
        here.check(&words, 3, "fanfold dev");
    }
    here.check(&["s3", "ls"], 3, "fanfold dev");
}

#[test]
fn doctor_says_what_is_wrong() {
    let here = Here::new();
    let endpoint = format!("http://127.0.0.1:{}", free_port());
    let output = here.run(&["doctor", "--output", "json", "--endpoint", &endpoint]);
    assert_eq!(output.status.code(), Some(3));
    let findings: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let gateway = findings.as_array().unwrap().iter().find(|finding| finding["what"] == "gateway").unwrap();
    assert_eq!(gateway["state"], "bad");
    assert!(gateway["mend"].as_str().unwrap().contains("fanfold dev"), "{gateway}");
}

#[test]
fn new_makes_a_folder_once() {
    let here = Here::new();
    for template in ["handler", "map", "aggregate"] {
        let name = format!("my-{template}");
        let output = here.run(&["new", &name, "--template", template]);
        assert!(output.status.success() && output.stdout.is_empty());
        let folder = here.path().join(&name);
        for file in ["Cargo.toml", "src/lib.rs", "function.toml", "README.md", ".gitignore"] {
            let text = std::fs::read_to_string(folder.join(file)).unwrap();
            assert!(!text.contains("{{name}}"), "{file}");
        }
        assert!(std::fs::read_to_string(folder.join("function.toml")).unwrap().contains(&name));
        assert_eq!(folder.join("job.toml").is_file(), template != "handler");
    }
    here.check(&["new", "my-handler"], 2, "something there already");
    here.check(&["new", "Bad Name"], 2, "function name");
    here.check(&["new", "match"], 2, "my-match");
    here.check(&["new", "my-handler/README.md/x"], 2, "could not be made");
    here.check(&["new", "x", "--template", "y"], 2, "handler");
    assert!(here.run(&["new", "deep/er/one"]).status.success());
    assert!(here.path().join("deep/er/one/Cargo.toml").is_file());
    here.check(&["new", "lost", "--sdk", "no-such"], 2, "the package fanfold-sdk in no-such");
    let lost = here.command(&["new", "lost"]).env("FANFOLD_SDK", "my-handler").output().unwrap();
    assert_eq!(lost.status.code(), Some(2));
    assert!(!here.path().join("lost").exists());
    let left: Vec<_> =
        std::fs::read_dir(here.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with(".fanfold")), "{left:?}");
}

#[test]
fn a_taken_port_and_a_taken_folder_are_told() {
    let here = Here::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    here.check(&["dev", "--listen", &address, "--s3-listen", "127.0.0.1:0"], 3, "--listen 127.0.0.1:PORT");
    here.check(&["dev", "--listen", "127.0.0.1:0", "--s3-listen", &address], 3, "--s3-listen");
    std::fs::write(here.path().join("file"), "").unwrap();
    let free = ["dev", "--listen", "127.0.0.1:0", "--s3-listen", "127.0.0.1:0", "--data", "file/x"];
    here.check(&free, 3, "--data DIR");
}

#[test]
fn a_service_that_starts_can_be_stopped() {
    let here = Here::new();
    // A store that takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let words =
        ["dev", "--listen", "127.0.0.1:0", "--s3-listen", "127.0.0.1:0", "--store-endpoint", &endpoint];
    let child = here.command(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (connected, connection) = std::sync::mpsc::channel();
    std::thread::spawn(move || connected.send(silent.accept().unwrap()));
    let _held = connection.recv_timeout(Duration::from_secs(30)).unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT)
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("stopping") && output.stdout.is_empty(), "{said}");
    assert!(!here.path().join(".fanfold/dev.json").exists());
}

/// A store that fails on its side so often, and then refuses whoever asks.
fn store_that_refuses_after(failures: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let failures = std::iter::repeat_n("503 Service Unavailable", failures);
        let answers = failures.chain(std::iter::repeat("403 Forbidden"));
        for (answer, stream) in answers.zip(listener.incoming()) {
            let mut stream = stream.unwrap();
            let mut request = BufReader::new(stream.try_clone().unwrap()).lines();
            while request.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
            let head = format!("HTTP/1.1 {answer}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
            stream.write_all(head.as_bytes()).unwrap();
        }
    });
    endpoint
}

#[test]
fn a_store_that_fails_on_its_side_is_waited_for_and_one_that_refuses_is_told() {
    let here = Here::new();
    // The first is tried by one call alone, the other fails more often than that.
    for (failures, waits) in [(0, 0), (7, 1)] {
        let endpoint = store_that_refuses_after(failures);
        let ports = ["--listen", "127.0.0.1:0", "--s3-listen", "127.0.0.1:0"];
        let output = here.run(&[&["dev", "--store-endpoint", &endpoint][..], &ports].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert!(said.contains("expected access to s3://fanfold/"), "{said}");
        assert_eq!(said.matches("the store cannot serve yet").count(), waits, "{said}");
    }
}

#[test]
fn help_and_version_are_data() {
    let here = Here::new();
    for words in [&["--help"][..], &["--version"], &["job", "run", "--help"], &["s3", "cp", "--help"]] {
        let output = here.run(words);
        assert!(
            output.status.success() && !output.stdout.is_empty() && output.stderr.is_empty(),
            "{words:?}"
        );
    }
}
