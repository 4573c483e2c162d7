// SPDX-License-Identifier: Apache-2.0
//! How a job's input becomes partitions, and what is said of it.

use std::{
    io::Write,
    sync::{Arc, Mutex},
};

use arrow::{
    array::{ArrayRef, Int64Array, RecordBatch},
    ipc::writer::{FileWriter, StreamWriter},
};
use fanfold_gateway::jobs::JobRecord;
use fanfold_protocol::{
    ErrorKind, Problem, keys,
    plan::{ByteRange, PARTITION_DOCUMENT_BYTES_MAX, Partition},
    stored::cut::{line_end, next_aim, ranges},
};
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};

use crate::{
    way::{Trouble, Way},
    world::{BUCKET, Engine, Mishap, Play, World, result, succeeded},
};

async fn plan(world: &World, engine: &Engine, more: Value) -> (JobRecord, Vec<Partition>) {
    let record = engine.submit("mapper", more).await.unwrap();
    let partitions = world.partitions(&record.id).await;
    assert_eq!(record.partitions as usize, partitions.len());
    (record, partitions)
}

/// Each partition as `key`, `key[start..end]` or `key#[row groups]`, in its order.
fn words(partitions: &[Partition]) -> Vec<String> {
    let slice = |s: &fanfold_protocol::plan::Slice| {
        let range = s.bytes.map_or(String::new(), |r| format!("[{}..{}]", r.start, r.end));
        let groups = s.row_groups.as_ref().map_or(String::new(), |g| format!("#{g:?}"));
        format!("{}{range}{groups}", s.object.uri.key())
    };
    partitions.iter().map(|p| p.slices.iter().map(slice).collect::<Vec<_>>().join(" ")).collect()
}

fn bytes(partitions: &[Partition]) -> Vec<ByteRange> {
    let slices = partitions.iter().flat_map(|partition| &partition.slices);
    slices.filter_map(|slice| slice.bytes).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn text_is_cut_where_records_end() {
    let world = World::new().await;
    let engine = world.engine().await;
    let csv = "id,text\n1,\"a\nb\"\n2,\"say \"\"\n\"\"\"\n3,c\n4,d\n";
    let check = async |name: &str, text: &str, more: Value, expected: &[&str]| {
        world.put(&format!("s3://bank/t/{name}"), text).await;
        let mut document = json!({"input": format!("s3://bank/t/{name}")});
        document.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let expected: Vec<_> = expected.iter().map(|part| format!("t/{name}{part}")).collect();
        assert_eq!(words(&plan(&world, &engine, document).await.1), expected, "{name} {more}");
    };
    let by = |target: &str| json!({"split": {"target_bytes": target}});
    check("a.csv", csv, by("1B"), &["[0..16]", "[16..30]", "[30..34]", "[34..38]"]).await;
    check("a.csv", csv, by("20B"), &["[0..30]", "[30..38]"]).await;
    check("a.csv", csv, by("40B"), &[""]).await;
    check("a.csv", csv, json!({}), &["[0..16]", "[16..30]", "[30..34]", "[34..38]"]).await;
    check("header.csv", "id,text\n", by("1B"), &[""]).await;
    check("one.csv", "a", by("1B"), &[""]).await;
    check("crlf.csv", "\u{feff}a\r\n1\r\n2\r\n3", by("1B"), &["[0..9]", "[9..12]", "[12..13]"]).await;
    // Without a header, with other characters.
    let odd =
        json!({"split": {"target_bytes": "1B"}, "csv": {"header": false, "quote": "'", "delimiter": ";"}});
    check("odd.csv", "'a\n';1\n2;\"\n", odd, &["[0..7]", "[7..11]"]).await;
    // What follows a fault is one part, for its reader to complain of.
    check("bad.csv", "a\n1\n2\n\"x\"y\n3\n4\n", by("1B"), &["[0..4]", "[4..6]", "[6..15]"]).await;
    check(
        "l.jsonl",
        "{\"a\":1}\n{\"a\":\"\\n\"}\n\n{}",
        by("1B"),
        &["[0..8]", "[8..19]", "[19..20]", "[20..22]"],
    )
    .await;
    check("l.bin", "{\"a\":1}\n{\"a\":2}\n", by("1B"), &["[0..8]", "[8..16]"]).await;
    check("l.txt", "a,b\n1,2\n3,4\n", by("1B"), &["[0..8]", "[8..12]"]).await;
    check("raw", "a\nb\n", json!({"format": "bytes"}), &[""]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_are_found_far_apart_and_close_together() {
    let world = World::new().await;
    let engine = world.engine().await;
    // Lines from 3 bytes to 300 KiB: cuts in one look, in several, and swallowed by a line.
    let line = |n: usize| format!("{}\n", n % 10).repeat(if n.is_multiple_of(7) { 1 } else { 900 * (n % 5) });
    let text: String =
        (0..200).map(|n| format!("\"{}\"\n{}", "x".repeat((n * n * n) % 300_000), line(n))).collect();
    world.put("s3://bank/t/far.jsonl", &text).await;
    let size = text.len() as u64;
    for target in [1_000_u64, 40_000, 65_536, 65_537, 300_000, 5_000_000] {
        let (mut cuts, mut aim) = (Vec::new(), next_aim(0, target));
        while let Some(cut) = line_end(text.as_bytes(), 0, aim).filter(|cut| *cut < size) {
            cuts.push(cut);
            aim = next_aim(cut, target);
        }
        let split = json!({"target_bytes": format!("{target}B")});
        let (_, parts) =
            plan(&world, &engine, json!({"input": "s3://bank/t/far.jsonl", "split": split})).await;
        assert_eq!(bytes(&parts), ranges(size, &cuts), "by {target}");
    }
}

/// A Parquet object as far as the planner looks at it: row groups of these bytes.
fn parquet(groups: &[u8], padding: usize) -> Vec<u8> {
    let mut footer = vec![0x49, (groups.len() as u8) << 4 | 0x0c];
    for bytes in groups {
        // total_compressed_size of each, below 64: one byte when zigzag-encoded.
        footer.extend([0x66, bytes * 2, 0]);
    }
    // created_by, which is passed over.
    footer.extend([0x28, 3, b'x', b'y', b'z', 0]);
    let length = u32::try_from(footer.len()).unwrap().to_le_bytes();
    [b"PAR1".to_vec(), vec![0; padding], footer, length.to_vec(), b"PAR1".to_vec()].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn parquet_is_cut_between_row_groups() {
    let world = World::new().await;
    let engine = world.engine().await;
    let object = parquet(&[30, 30, 60, 1, 1], 122);
    world
        .store()
        .put(&"s3://bank/p/a.parquet".parse().unwrap(), object.into(), Default::default())
        .await
        .unwrap();
    // Its footer does not fit into the first look.
    let mut far = parquet(&[40; 14], 0);
    let (footer, trailer) = (far.len() - 12, far.len() - 8);
    let pad = vec![0x48, 0x80, 0x80, 0x06].into_iter().chain(vec![b'x'; 3 << 15]).collect::<Vec<_>>();
    far.splice(trailer - 1..trailer - 1, pad.iter().copied());
    let at = far.len() - 8;
    far[at..at + 4].copy_from_slice(&u32::try_from(footer + pad.len()).unwrap().to_le_bytes());
    world.store().put(&"s3://bank/p/b".parse().unwrap(), far.into(), Default::default()).await.unwrap();
    let of =
        |input: &str, target: u64| json!({"input": input, "split": {"target_bytes": format!("{target}B")}});
    let check = async |input: &str, target: u64, expected: &[&str]| {
        let (record, partitions) = plan(&world, &engine, of(input, target)).await;
        assert_eq!(words(&partitions), expected, "{input} by {target}");
        assert_eq!(record.warnings, [""; 0]);
        // Planned again, from what is remembered.
        assert_eq!(plan(&world, &engine, of(input, target)).await.1, partitions);
    };
    let a = "s3://bank/p/a.parquet";
    check(
        a,
        1,
        &["p/a.parquet#[0]", "p/a.parquet#[1]", "p/a.parquet#[2]", "p/a.parquet#[3]", "p/a.parquet#[4]"],
    )
    .await;
    check(a, 62, &["p/a.parquet#[0, 1]", "p/a.parquet#[2, 3, 4]"]).await;
    check(a, 1_000, &["p/a.parquet"]).await;
    check("s3://bank/p/b", 300, &["p/b#[0, 1, 2, 3, 4, 5, 6]", "p/b#[7, 8, 9, 10, 11, 12, 13]"]).await;
    for (name, content) in [
        ("cut.parquet", &b"PAR1 and no more"[..]),
        ("long.parquet", b"PAR1xxxx\xff\xff\xff\x7fPAR1"),
        ("claim.parquet", b"PAR1\x49\xfc\xff\xff\xff\xff\x07\x07\0\0\0PAR1"),
    ] {
        let uri = format!("s3://bank/bad/{name}");
        world.store().put(&uri.parse().unwrap(), content.into(), Default::default()).await.unwrap();
        let problem = engine.submit("mapper", of(&uri, 1)).await.unwrap_err();
        assert_eq!(problem.code, ErrorKind::ParquetCorrupt, "{name}: {problem}");
        assert!(problem.detail.contains(&uri), "{problem}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn footers_are_read_side_by_side() {
    let world = World::new().await;
    for n in 0..20 {
        let uri = format!("s3://bank/p/{n:02}.parquet").parse().unwrap();
        world.store().put(&uri, parquet(&[30, 30], 60).into(), Default::default()).await.unwrap();
    }
    let way = Way::to(world.store(), Trouble::Hold, |asked| asked.contains(".parquet")).await;
    let engine = world.engine_by(&way, |_| ()).await;
    way.shut();
    let job = json!({"input": "s3://bank/p/", "split": {"target_bytes": "40B"}});
    let all_wait = async {
        way.met(16).await;
        way.open();
    };
    let (record, ()) = tokio::join!(engine.submit("mapper", job), all_wait);
    assert_eq!(record.unwrap().partitions, 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_row_group_is_why_its_task_takes_long() {
    let world = World::new().await;
    let engine = world.engine().await;
    let object = parquet(&[1, 1, 1, 1, 1, 60], 122);
    let uri = "s3://bank/p/uneven.parquet";
    world.store().put(&uri.parse().unwrap(), object.into(), Default::default()).await.unwrap();
    let _worker = world.work(Play {
        mishap: Box::new(|lease| (lease.group == 5).then_some(Mishap::Straggle)),
        ..Play::default()
    });
    let job = json!({"input": uri, "split": {"target_bytes": "1B"}, "retry": {"speculation": false}});
    let id = engine.submit("mapper", job).await.unwrap().id;
    let record = engine.until(&id, |record| !record.slowest.is_empty()).await;
    assert_eq!((record.partitions, &record.slowest[0].why[..]), (6, "6 times the input of others"));
}

#[tokio::test(flavor = "multi_thread")]
async fn arrow_files_are_cut_between_batches_and_streams_are_not() {
    let world = World::new().await;
    let engine = world.engine().await;
    let batch = |rows: i64| {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows));
        RecordBatch::try_from_iter([("n", numbers)]).unwrap()
    };
    let mut file = FileWriter::try_new(Vec::new(), &batch(0).schema()).unwrap();
    let mut stream = StreamWriter::try_new(Vec::new(), &batch(0).schema()).unwrap();
    for rows in [1_000, 1_000, 1_000] {
        file.write(&batch(rows)).unwrap();
        stream.write(&batch(rows)).unwrap();
    }
    let (file, stream) = (file.into_inner().unwrap(), stream.into_inner().unwrap());
    let size = file.len();
    for (key, content) in [("a/f.arrow", file), ("a/s.arrows", stream), ("b/cut", b"ARROW1 and more".into())]
    {
        let uri = format!("s3://bank/{key}").parse().unwrap();
        world.store().put(&uri, content.into(), Default::default()).await.unwrap();
    }
    for format in ["auto", "arrow"] {
        let more = json!({"input": "s3://bank/a/", "format": format, "split": {"target_bytes": "8kB"}});
        let (record, partitions) = plan(&world, &engine, more).await;
        let parts = bytes(&partitions);
        assert_eq!((partitions.len(), parts.len()), (4, 3), "{:?}", words(&partitions));
        assert_eq!((parts[0].start, parts[2].end), (0, size as u64));
        assert!(parts.windows(2).all(|pair| pair[0].end == pair[1].start));
        assert!(parts[1].end - parts[1].start > 8_000);
        assert_eq!(words(&partitions)[3], "a/s.arrows");
        let [warning] = &record.warnings[..] else { panic!("{:?}", record.warnings) };
        assert!(warning.contains("s3://bank/a/s.arrows") && warning.contains("Arrow files"), "{warning}");
    }
    let bad = json!({"input": "s3://bank/b/cut", "split": {"target_bytes": "1B"}});
    let problem = engine.submit("mapper", bad).await.unwrap_err();
    assert_eq!(problem.code, ErrorKind::ArrowCorrupt, "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn small_objects_share_a_partition() {
    let world = World::new().await;
    world.inputs(70).await;
    world.put("s3://bank/in/0345.csv", &format!("a\n{}", "1\n".repeat(100))).await;
    let engine = world.engine().await;
    let (record, partitions) = plan(&world, &engine, json!({"split": {"target_bytes": "64MiB"}})).await;
    assert_eq!((record.partitions, partitions[0].slices.len(), record.input_bytes), (1, 71, 482));
    let (_, partitions) = plan(&world, &engine, json!({"split": {"target_bytes": "100B"}})).await;
    let sizes: Vec<_> = partitions.iter().map(|p| p.slices.len()).collect();
    // 35 objects of 4 bytes, one of 202 in three parts, the last of which is packed, 35 more.
    assert_eq!(sizes, [25, 10, 1, 1, 25, 11], "{:?}", words(&partitions));
    let keys: Vec<_> =
        partitions.iter().flat_map(|p| &p.slices).map(|slice| slice.object.uri.key().to_owned()).collect();
    assert!(keys.is_sorted(), "{keys:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_is_shared_among_tasks_unless_its_author_says_otherwise() {
    let world = World::new().await;
    let engine = world.engine().await;
    world.put("s3://bank/w/a.csv", &format!("a\n{}", "1234567\n".repeat(400_000))).await;
    // No Parquet, which its reader is to tell of one task.
    world.put("s3://bank/w/b.parquet", &"?".repeat(2 << 20)).await;
    for n in 0..300 {
        world.put(&format!("s3://bank/w/c{n:03}.csv"), "a\n1\n").await;
    }
    let (record, partitions) = plan(&world, &engine, json!({"input": "s3://bank/w/", "split": {}})).await;
    let cuts = bytes(&partitions);
    assert_eq!((cuts.len(), cuts[0].start, cuts[3].end), (4, 0, 3_200_002), "{cuts:?}");
    assert!(cuts.windows(2).all(|pair| pair[0].end == pair[1].start), "{cuts:?}");
    assert!(cuts.iter().take(3).all(|cut| (cut.end - cut.start).abs_diff(1 << 20) < 10), "{cuts:?}");
    let rest: Vec<_> = partitions[4..].iter().map(|partition| partition.slices.len()).collect();
    assert_eq!((rest, &record.warnings), (vec![1, 300], &vec![]));
    let split = json!({"target_bytes": "64MiB"});
    let (record, partitions) = plan(&world, &engine, json!({"input": "s3://bank/w/", "split": split})).await;
    assert_eq!((partitions.len(), partitions[0].slices.len(), record.warnings.len()), (1, 302, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_text_is_neither_cut_nor_packed_and_that_is_said() {
    let world = World::new().await;
    let engine = world.engine().await;
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all("a,b\n1,2\n".repeat(500).as_bytes()).unwrap();
    let gzip = gzip.finish().unwrap();
    for name in ["a.csv.gz", "b.csv", "c.csv.gz"] {
        let uri = format!("s3://bank/z/{name}").parse().unwrap();
        world.store().put(&uri, gzip.clone().into(), Default::default()).await.unwrap();
    }
    world.put("s3://bank/z/d.csv", "a,b\n1,2\n").await;
    for target in ["8B", "1MiB"] {
        let more = json!({"input": "s3://bank/z/", "split": {"target_bytes": target}});
        let (record, partitions) = plan(&world, &engine, more).await;
        assert_eq!(words(&partitions), ["z/a.csv.gz", "z/b.csv", "z/c.csv.gz", "z/d.csv"], "by {target}");
        let [warning] = &record.warnings[..] else { panic!("{:?}", record.warnings) };
        assert!(
            warning.contains("s3://bank/z/a.csv.gz is the first") && warning.contains("Parquet"),
            "{warning}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn inputs_that_hold_nothing_make_a_job_without_partitions() {
    let world = World::new().await;
    for name in ["a.csv", "b.parquet"] {
        world.put(&format!("s3://bank/nothing/{name}"), "").await;
    }
    world.put("s3://bank/lists/none.json", "[]").await;
    let engine = world.engine().await;
    let _worker = world.work(Play::default());
    for (input, told) in [
        (json!("s3://bank/nothing/"), "s3://bank/nothing/a.csv"),
        (json!(["s3://bank/nothing/*.csv", "manifest://bank/lists/none.json"]), "s3://bank/nothing/a.csv"),
        (json!("s3://bank/none/"), "s3://bank/none/, found none among 0 keys"),
        (json!("s3://bank/nothing/*.json"), "*.json, found none among 2 keys"),
    ] {
        let record = engine
            .run("mapper", json!({"input": input, "output": "s3://bank/out/", "overwrite": true}))
            .await;
        succeeded(&record);
        assert_eq!((record.partitions, record.tasks.total), (0, 0));
        assert!(record.warnings.iter().any(|w| w.contains(told)), "{told}: {:?}", record.warnings);
        assert!(record.warnings.iter().any(|w| w.contains("holds nothing")), "{:?}", record.warnings);
        assert_eq!(engine.jobs.manifest(&record.id).await.unwrap().objects, []);
        // Its output is input that holds nothing, too.
        let next = engine.run("folder", json!({"input": "s3://bank/out/"})).await;
        succeeded(&next);
        assert_eq!((next.tasks.total, result(&next)), (1, Some(json!({"fold": "()"}))));
    }
    // An object named by itself is its reader's to refuse; as bytes it is a row.
    let (_, partitions) = plan(&world, &engine, json!({"input": "s3://bank/nothing/a.csv"})).await;
    assert_eq!(words(&partitions), ["nothing/a.csv"]);
    let (_, partitions) =
        plan(&world, &engine, json!({"input": "s3://bank/nothing/", "format": "bytes"})).await;
    assert_eq!(words(&partitions), ["nothing/a.csv nothing/b.parquet"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_name_the_input() {
    let world = World::new().await;
    world.inputs(3).await;
    let engine = world.engine().await;
    let pin = world.store().head(&"s3://bank/in/001.csv".parse().unwrap()).await.unwrap().pin;
    let lists = [
        ("list.json", json!(["s3://bank/in/002.csv", {"bucket": "bank", "key": "in/001.csv"}]).to_string()),
        ("list.csv", "uri\ns3://bank/in/002.csv\ns3://bank/in/001.csv\n".to_owned()),
        ("s3.csv", "bank,in%2F002.csv\nbank,in/001.csv\n".to_owned()),
        ("manifest.json", json!({
            "destinationBucket": "arn:aws:s3:::bank", "fileFormat": "CSV", "fileSchema": "Bucket, Key, Size, ETag",
            "files": [{"key": "lists/data.csv"}]
        }).to_string()),
        ("data.csv", format!("\"bank\",\"in%2F002.csv\",\"\",\"\"\n\"bank\",\"in/001.csv\",\"4\",\"{}\"\n", pin.etag)),
    ];
    for (name, text) in &lists {
        world.put(&format!("s3://bank/lists/{name}"), text).await;
    }
    for name in ["list.json", "list.csv", "s3.csv", "manifest.json"] {
        let input = json!({"input": format!("manifest://bank/lists/{name}")});
        let (_, partitions) = plan(&world, &engine, input).await;
        assert_eq!(words(&partitions), ["in/001.csv", "in/002.csv"], "{name}");
        assert_eq!(partitions[0].slices[0].object.pin, pin, "{name}");
    }
    // The manifest of a job that wrote many objects names them in shards.
    let object =
        |n: usize| json!({"uri": format!("s3://bank/in/00{n}.csv"), "size": 4, "etag": pin.etag, "rows": 1});
    world.put("s3://bank/w/_manifest-x-0.jsonl", &format!("{}\n{}\n", object(1), object(2))).await;
    let shards = json!([{"uri": "s3://bank/w/_manifest-x-0.jsonl", "objects": 2}]);
    let head = json!({
        "job": uuid::Uuid::nil(), "function": "mapper@1", "rows": 2, "bytes": 8, "objects": [], "shards": shards
    });
    world.put("s3://bank/w/_manifest.json", &head.to_string()).await;
    for input in ["manifest://bank/w/_manifest.json"] {
        let (_, partitions) = plan(&world, &engine, json!({"input": input})).await;
        assert_eq!(words(&partitions), ["in/001.csv", "in/002.csv"], "{input}");
    }
    let check = async |text: &str, kind: ErrorKind, word: &str| {
        world.put("s3://bank/lists/bad", text).await;
        let problem = engine
            .submit("mapper", json!({"input": "manifest://bank/lists/bad", "output": "s3://bank/o/"}))
            .await;
        let problem = problem.unwrap_err();
        assert_eq!(problem.code, kind, "{text}: {problem}");
        assert!(problem.detail.contains(word), "{text}: {problem}");
    };
    check("s3://bank/in/9.csv\n", ErrorKind::ObjectNotFound, "s3://bank/in/9.csv").await;
    check("s3://bank/o/x.csv\ns3://bank/in/001.csv\n", ErrorKind::ObjectNotFound, "s3://bank/o/x.csv").await;
    check("uri,size,etag\ns3://bank/o/x.csv,1,e\n", ErrorKind::OverlappingPrefixes, "s3://bank/o/").await;
    check("s3://fanfold/components/x\n", ErrorKind::AccessDenied, "components").await;
    check("[1]", ErrorKind::InvalidJob, "s3://bank/lists/bad").await;
    check(&head.to_string(), ErrorKind::InvalidJob, "lies elsewhere").await;
    check("{\"files\": 1}", ErrorKind::InvalidJob, "inventory").await;
    // No way around what may be read leads through an inventory.
    let own = json!({
        "destinationBucket": "arn:aws:s3:::fanfold", "fileFormat": "CSV", "fileSchema": "Bucket, Key",
        "files": [{"key": "functions/mapper/versions/00000001.json"}]
    });
    check(&own.to_string(), ErrorKind::AccessDenied, "functions/mapper").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_taken_apart_is_refused_before_anything_is_queued() {
    let world = World::new().await;
    let engine = world.engine().await;
    world.put("s3://bank/t/many.csv", &"1\n".repeat(600_000)).await;
    world.put("s3://bank/t/odd.xyz", "\u{1}\u{2}\u{3}\u{4}").await;
    let check = async |input: &str, kind: ErrorKind, word: &str| {
        let more = json!({"input": input, "split": {"target_bytes": "1B"}});
        let problem = engine.submit("mapper", more).await.unwrap_err();
        assert_eq!(problem.code, kind, "{input}: {problem}");
        assert!(problem.detail.contains(input) && problem.detail.contains(word), "{input}: {problem}");
    };
    check("s3://bank/t/many.csv", ErrorKind::PartitionLimit, "split.target_bytes").await;
    check("s3://bank/t/odd.xyz", ErrorKind::FormatUnknown, "01 02 03 04").await;
    assert_eq!(world.keys(BUCKET, "jobs/").await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_task_is_told_which_object_settles_the_types() {
    let world = World::new().await;
    for (name, text) in [("a", "n\n1\n"), ("b", "n\n1\n2.5\n"), ("c", "n\n7\n2.5\n")] {
        world.put(&format!("s3://bank/l/{name}.csv"), text).await;
    }
    let engine = world.engine().await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sees = Arc::clone(&seen);
    let _worker = world.work(Play {
        sees: Box::new(move |lease| {
            let like = lease.common.like.as_ref().map(|like| like.object.uri.key().to_owned());
            sees.lock().unwrap().extend(lease.tasks.iter().map(|_| like.clone()));
        }),
        ..Play::default()
    });
    for (format, expected) in [("auto", Some("l/b.csv".to_owned())), ("bytes", None)] {
        succeeded(&engine.run("mapper", json!({"input": "s3://bank/l/", "format": format})).await);
        // Of two largest the first; b and c are cut after their first record.
        let seen = std::mem::take(&mut *seen.lock().unwrap());
        let tasks = if expected.is_some() { 5 } else { 3 };
        assert_eq!(seen, vec![expected; tasks], "{format}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_task_names_the_first_of_its_objects() {
    let world = World::new().await;
    world.inputs(12).await;
    let engine = world.engine().await;
    let _worker = world.work(Play {
        fails: Box::new(|_, _| Some(Problem::new(ErrorKind::CsvMalformed, "s3://bank/in/011.csv, row 1"))),
        ..Play::default()
    });
    let record = engine.run("mapper", json!({"split": {"target_bytes": "1MiB"}})).await;
    let detail = record.problem.unwrap().detail;
    for words in ["s3://bank/in/000.csv and", "s3://bank/in/007.csv and 4 more failed", "in/011.csv, row 1"] {
        assert!(detail.contains(words), "{words}: {detail}");
    }
}

/// Objects of the list below, half of them small.
const MANY: usize = 60_000;

#[tokio::test(flavor = "multi_thread")]
async fn many_objects_are_planned_in_shards() {
    let world = World::new().await;
    let engine = world.engine().await;
    let mut list = GzEncoder::new(b"".to_vec(), Compression::fast());
    writeln!(list, "uri,size,etag").unwrap();
    // Backwards: the planner puts them in order.
    for n in (0..MANY).rev() {
        let size = if n < MANY / 2 { 1_000_000 } else { 1 };
        writeln!(list, "s3://bank/many/{n:07}.csv,{size},9b2cf535f27731c974343645a3985328").unwrap();
    }
    let uri = "s3://bank/lists/many.csv.gz".parse().unwrap();
    world.store().put(&uri, list.finish().unwrap().into(), Default::default()).await.unwrap();
    let more = json!({
        "input": "manifest://bank/lists/many.csv.gz", "split": {"target_bytes": "1MB"}, "limits": {"max_parallel": 1}
    });
    let (record, partitions) = plan(&world, &engine, more).await;
    let named: Vec<&str> =
        partitions.iter().flat_map(|p| &p.slices).map(|slice| slice.object.uri.key()).collect();
    assert!(named.len() == MANY && named.is_sorted(), "{}", named.len());
    // Large ones alone; of the small ones as many together as a lease carries.
    assert!(partitions[..MANY / 2].iter().all(|p| p.slices.len() == 1));
    let packed = &partitions[MANY / 2..];
    assert!((30..200).contains(&packed.len()), "{}", packed.len());
    let longest = packed.iter().map(|p| serde_json::to_vec(p).unwrap().len() as u64).max().unwrap();
    assert!(longest <= PARTITION_DOCUMENT_BYTES_MAX + 20, "{longest}");
    let head = world.json(&format!("s3://{BUCKET}/{}", keys::plan(&record.id))).await;
    let shards = head["shards"].as_array().unwrap();
    assert!(shards.len() > 3, "{shards:?}");
    assert_eq!(head["like"]["uri"], "s3://bank/many/0000000.csv");
    // Each task finds its partition across the shards.
    for number in [0, 9_999, 10_000, 29_999, 30_000, partitions.len() - 1] {
        // The first task is leased, and so comes first anyway; the others wait.
        let after = number.checked_sub(1).map(|before| format!("3-0-{before}"));
        let page = engine.jobs.tasks(&record.id, None, after.as_deref(), 1).await.unwrap();
        let task = &page.tasks[0];
        let slices = &partitions[number].slices;
        let named: Vec<_> = slices.iter().take(8).map(|s| s.object.uri.to_string()).collect();
        assert_eq!((task.task as usize, task.input_slices, &task.input), (number, slices.len(), &named));
    }
}
