// SPDX-License-Identifier: Apache-2.0
//! Lists of every kind, good and bad, whole and in pieces.

use std::io::Write;

use flate2::{Compression, write::GzEncoder};

use super::*;

fn uri() -> ObjectUri {
    "s3://bank/list".parse().unwrap()
}

fn list(text: &str) -> Result<Vec<Listed>, Problem> {
    match read(&uri(), text.as_bytes())? {
        Document::List(listed) => Ok(listed),
        other => panic!("{other:?}"),
    }
}

fn words(listed: &[Listed]) -> Vec<String> {
    let pin = |pin: &Pin| format!(" {} {} {}", pin.etag, pin.size, pin.version_id.as_deref().unwrap_or("-"));
    listed.iter().map(|l| format!("{}{}", l.uri, l.pin.as_ref().map_or(String::new(), pin))).collect()
}

fn check(text: &str, expected: &[&str]) {
    assert_eq!(words(&list(text).unwrap()), expected, "{text}");
}

#[test]
fn lists_are_json_or_csv() {
    let plain = ["s3://bank/a", "s3://bank/b c"];
    check(r#"["s3://bank/a", "s3://bank/b c"]"#, &plain);
    check(r#" [{"uri": "s3://bank/a"}, {"bucket": "bank", "key": "b c"}]"#, &plain);
    check("s3://bank/a\ns3://bank/b c", &plain);
    check("\u{feff}uri\r\ns3://bank/a\r\n\r\ns3://bank/b c\r\n", &plain);
    check("Bucket,Key\nbank,a\n\"bank\",\"b c\"\n", &plain);
    // S3's own form has no names of columns, and encodes keys.
    check("bank,a\nbank,b%20c\n", &plain);
    check("bank,b+c%2B%c3%a4\n", &["s3://bank/b c+ä"]);
    check("", &[]);
    check("[]", &[]);
}

#[test]
fn lists_may_pin() {
    let pinned = ["s3://bank/a e 7 v", "s3://bank/b f 8 -"];
    check(
        r#"[{"uri": "s3://bank/a", "size": 7, "etag": "\"e\"", "version_id": "v"},
            {"uri": "s3://bank/b", "size": 8, "etag": "f", "version_id": "null"}]"#,
        &pinned,
    );
    check("uri,size,etag,version_id\ns3://bank/a,7,e,v\ns3://bank/b,8,f,\n", &pinned);
    check("key,bucket,ETag,Size,VersionId,Owner\na,bank,e,7,v,x\nb,bank,f,8,null,y\n", &pinned);
}

fn refused(text: &str, word: &str) {
    let problem = list(text).unwrap_err();
    assert_eq!(problem.code, ErrorKind::InvalidJob, "{text}: {problem}");
    assert!(problem.detail.contains(word), "{text}: {problem}");
}

#[test]
fn bad_lists_are_refused_with_the_place() {
    refused(r#"["s3://bank/a", 7]"#, "s3://bank/list");
    refused(r#"[{"url": "s3://bank/a"}]"#, "each entry");
    refused(r#"["s3://bank/a", {"key": "b"}]"#, "entry 2 of s3://bank/list");
    refused(r#"["s3://bank/a/"]"#, "entry 1");
    refused("bank,a\nbank,in/\n", "row 2");
    refused(r#"[{"uri": "s3://bank/a", "version_id": "v"}]"#, "version");
    refused("uri\ns3://bank/a\nbank/b\n", "row 3 of s3://bank/list");
    refused("uri,size\ns3://bank/a,x\n", "row 2");
    refused("bank,a,b,c\n", "4 columns without names");
    refused("bank,%zz\n", "percent-encoded");
    refused("bank,a\nbank\n", "2 fields, found 1");
    refused("\"bank,a\n", "quote");
    refused("word\n", "1 columns");
    assert_eq!(read(&uri(), &b"{}"[..]).unwrap_err().code, ErrorKind::InvalidJob);
}

fn inventory(format: &str) -> Inventory {
    let text = serde_json::json!({
        "sourceBucket": "bank", "destinationBucket": "arn:aws:s3:::lists", "version": "2016-11-30",
        "creationTimestamp": "1514944800000", "fileFormat": format,
        "fileSchema": "Bucket, Key, VersionId, IsLatest, IsDeleteMarker, Size, LastModifiedDate, ETag",
        "files": [{"key": "bank/x.csv.gz", "size": 10, "MD5checksum": "f11166069f1990abeb9c97ace9cdfabc"}]
    });
    match read(&uri(), text.to_string().as_bytes()).unwrap() {
        Document::Inventory(inventory) => inventory,
        other => panic!("{other:?}"),
    }
}

#[test]
fn inventories_name_the_latest_versions() {
    let inventory_csv = inventory("CSV");
    let files = inventory_csv.files().unwrap();
    assert_eq!(files, ["s3://lists/bank/x.csv.gz".parse().unwrap()]);
    let rows = "\"bank\",\"a%2Bb\",\"v1\",\"true\",\"false\",\"7\",\"2026-01-01T00:00:00.000Z\",\"e\"\n\
                \"bank\",\"old\",\"v0\",\"false\",\"false\",\"7\",\"\",\"e\"\n\
                \"bank\",\"gone\",\"v2\",\"true\",\"true\",\"\",\"\",\"\"\n\
                \"bank\",\"in%2F\",\"v3\",\"true\",\"false\",\"0\",\"\",\"d\"\n\
                \"bank\",\"in/_SUCCESS\",\"v4\",\"true\",\"false\",\"0\",\"\",\"d\"\n\
                \"bank\",\"in/.x.crc\",\"v5\",\"true\",\"false\",\"4\",\"\",\"c\"\n\
                \"bank\",\"in/_temporary/0/x\",\"v6\",\"true\",\"false\",\"4\",\"\",\"c\"\n";
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(rows.as_bytes()).unwrap();
    let gzip = gzip.finish().unwrap();
    for bytes in [rows.as_bytes(), &gzip] {
        assert_eq!(words(&inventory_csv.objects(&files[0], bytes).unwrap()), ["s3://bank/a+b e 7 v1"]);
    }
    let cut = inventory_csv.objects(&files[0], &gzip[..gzip.len() - 9]).unwrap_err();
    assert!(cut.detail.contains("gzip"), "{cut}");
    assert_eq!(inventory("ORC").files().unwrap_err().code, ErrorKind::NotSupported);
}

/// A text that comes a few bytes at a time.
struct Dribble<'a>(&'a [u8]);

impl Read for Dribble<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let count = into.len().min(self.0.len()).min(3);
        let (now, later) = self.0.split_at(count);
        into[..count].copy_from_slice(now);
        self.0 = later;
        Ok(count)
    }
}

#[test]
fn lists_may_come_in_pieces() {
    let expected: Vec<String> = (0..5_000).map(|n| format!("s3://bank/{n:05}")).collect();
    let texts = [
        serde_json::to_vec(&expected).unwrap(),
        [&b"\xef\xbb\xbf"[..], expected.join("\n").as_bytes()].concat(),
    ];
    for text in texts {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(&text).unwrap();
        for text in [&text, &gzip.finish().unwrap()] {
            let Document::List(listed) = read(&uri(), Dribble(text)).unwrap() else { panic!() };
            assert_eq!(words(&listed), expected);
        }
    }
}

#[test]
fn an_entry_without_end_is_refused() {
    for (begin, endless) in [(&b"["[..], b' '), (b"[\"s3://", b'a'), (b"[\"s3://bank/k\", [", b'[')] {
        let problem = read(&uri(), begin.chain(std::io::repeat(endless))).unwrap_err();
        assert_eq!(problem.code, ErrorKind::InvalidJob, "{problem}");
        assert!(!problem.detail.contains("found found"), "{problem}");
    }
    // Many short ones may be as long.
    let entry = format!("\"s3://bank/{}\"", "k".repeat(1_000));
    let list = format!("[{}]", vec![entry; 9_000].join(","));
    let Ok(Document::List(listed)) = read(&uri(), list.as_bytes()) else { panic!("a list is refused") };
    assert_eq!(listed.len(), 9_000);
}

#[test]
fn a_list_that_grows_too_much_is_refused() {
    let key = "k".repeat(1_000);
    let (row, entry) = (format!("s3://bank/{key}\n"), format!(",\"s3://bank/{key}\""));
    let rows = row.repeat(1 + limits::PAGE_BYTES_MAX as usize / row.len());
    let entries = entry.repeat(1 + limits::PAGE_BYTES_MAX as usize / entry.len());
    for text in [rows.clone(), format!("[\"s3://bank/k\"{entries}]")] {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
        gzip.write_all(text.as_bytes()).unwrap();
        let problem = read(&uri(), &gzip.finish().unwrap()[..]).unwrap_err();
        assert_eq!(problem.code, ErrorKind::DecodeLimit, "{problem}");
        assert!(problem.detail.contains("s3://bank/list"), "{problem}");
    }
    // As many bytes that are not packed are read.
    assert!(list(&rows).unwrap().len() > 60_000);
}

#[test]
fn a_list_of_too_many_objects_is_refused_before_its_end() {
    struct Endless(&'static [u8], usize);
    impl Read for Endless {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            for (n, byte) in into.iter_mut().enumerate() {
                *byte = self.0[(self.1 + n) % self.0.len()];
            }
            self.1 += into.len();
            Ok(into.len())
        }
    }
    let rows = Endless(b"s3://bank/a\n", 0);
    let entries = (&b"["[..]).chain(Endless(b"\"s3://bank/a\",", 0));
    for found in [read(&uri(), rows), read(&uri(), entries)] {
        assert_eq!(found.unwrap_err().code, ErrorKind::PartitionLimit);
    }
}
