"""The embedded S3 server as boto3 meets it.

Reads S3_ENDPOINT and the usual AWS_* variables, runs every function whose name
begins with `test_` on a bucket of its own, and exits with 1 when one fails.
Covers what the Rust client does not send: aws-chunked bodies with checksums in
trailers, presigned URLs, listings of version 1, part copies, part listings.
"""

import ast
import base64
import concurrent.futures
import contextlib
import hashlib
import io
import os
import re
import socket
import sys
import traceback
import urllib.error
import urllib.parse
import urllib.request
import xml.etree.ElementTree
import zlib

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.exceptions import ClientError

MIB = 1 << 20


def client(**config):
    settings = {"s3": {"addressing_style": "path"}, "retries": {"max_attempts": 1}, "max_pool_connections": 64}
    settings.update(config)
    return boto3.client("s3", endpoint_url=os.environ["S3_ENDPOINT"], config=Config(**settings))


S3 = client()


def code_of(call, **arguments):
    """The error code and HTTP status of a call that must fail."""
    try:
        call(**arguments)
    except ClientError as error:
        return error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]
    raise AssertionError("the call must fail, it passed")


def body_of(bucket, key, **arguments):
    return S3.get_object(Bucket=bucket, Key=key, **arguments)["Body"].read()


def crc32(data):
    return base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()


def test_put_and_get_keep_everything(bucket):
    data = os.urandom(100_000)
    put = S3.put_object(
        Bucket=bucket, Key="k", Body=data, ContentType="text/csv", CacheControl="max-age=3",
        ContentDisposition='attachment; filename="x.csv"', ContentLanguage="de", ContentEncoding="gzip",
        Metadata={"a": "1", "long-name": "two words"},
    )
    assert put["ETag"] == f'"{hashlib.md5(data).hexdigest()}"', put
    assert put["ChecksumCRC32"] == crc32(data), put
    for answer in (S3.head_object(Bucket=bucket, Key="k"), S3.get_object(Bucket=bucket, Key="k")):
        assert answer["ContentType"] == "text/csv" and answer["CacheControl"] == "max-age=3", answer
        assert answer["ContentEncoding"] == "gzip" and answer["ContentLanguage"] == "de", answer
        assert answer["ContentDisposition"].endswith('"x.csv"') and answer["ContentLength"] == len(data), answer
        assert answer["Metadata"] == {"a": "1", "long-name": "two words"}, answer
        assert answer["AcceptRanges"] == "bytes", answer
    assert body_of(bucket, "k") == data
    S3.put_object(Bucket=bucket, Key="plain", Body=b"x")
    assert S3.head_object(Bucket=bucket, Key="plain")["ContentType"] == "binary/octet-stream"


def test_checksums_of_every_kind_are_checked(bucket):
    data = os.urandom(70_000)
    for algorithm in ("CRC32", "SHA1", "SHA256"):
        put = S3.put_object(Bucket=bucket, Key=algorithm, Body=data, ChecksumAlgorithm=algorithm)
        got = S3.get_object(Bucket=bucket, Key=algorithm, ChecksumMode="ENABLED")
        assert got[f"Checksum{algorithm}"] == put[f"Checksum{algorithm}"], (put, got)
        assert got["Body"].read() == data
        part = S3.get_object(Bucket=bucket, Key=algorithm, ChecksumMode="ENABLED", Range="bytes=1-5")
        assert f"Checksum{algorithm}" not in part and part["Body"].read() == data[1:6]
    wrong = base64.b64encode(bytes(16)).decode()
    assert code_of(S3.put_object, Bucket=bucket, Key="bad", Body=data, ContentMD5=wrong) == ("BadDigest", 400)
    assert code_of(S3.put_object, Bucket=bucket, Key="bad", Body=data, ContentMD5="x")[0] == "InvalidDigest"
    assert code_of(S3.put_object, Bucket=bucket, Key="bad", Body=data, ChecksumCRC32="AAAAAA==") == ("BadDigest", 400)
    right = base64.b64encode(hashlib.md5(data).digest()).decode()
    S3.put_object(Bucket=bucket, Key="good", Body=data, ContentMD5=right)
    assert code_of(S3.head_object, Bucket=bucket, Key="bad") == ("404", 404)


def saying(headers):
    """A client whose requests have these headers, as those of another SDK may."""
    other = client(request_checksum_calculation="when_required")

    def add(request, **_):
        for name, value in headers.items():
            del request.headers[name]
            request.headers[name] = value

    other.meta.events.register("before-sign.s3", add)
    return other


def test_checksums_of_other_kinds_are_refused(bucket):
    S3.put_object(Bucket=bucket, Key="k", Body=b"kept")
    at = {"Bucket": bucket, "Key": "k"}
    begun = {**at, "UploadId": S3.create_multipart_upload(**at)["UploadId"]}
    deletes = {"Bucket": bucket, "Delete": {"Objects": [{"Key": "k"}]}}
    not_here = ("NotImplemented", 501)
    for name in ("sha512", "md5", "xxhash64", "xxhash3", "xxhash128", "unheard-of"):
        value = {f"x-amz-checksum-{name}": base64.b64encode(bytes(16)).decode()}
        for headers in (value, {"x-amz-sdk-checksum-algorithm": name.upper()}):
            assert code_of(saying(headers).put_object, **at, Body=b"x") == not_here, headers
            assert code_of(saying(headers).upload_part, **begun, PartNumber=1, Body=b"x") == not_here, headers
        assert code_of(saying(value).delete_objects, **deletes) == not_here, name
        named = saying({"x-amz-checksum-algorithm": name.upper()})
        assert code_of(named.create_multipart_upload, **at) == not_here, name
        assert code_of(named.copy_object, Bucket=bucket, Key="copy", CopySource=at) == not_here, name
        trailer = f"x-amz-checksum-{name}"
        sent = f"{trailer}:AAAA\r\n".encode()
        assert put_in_chunks(bucket, "k", [b"x"], 1, sent, announced=trailer) == (501, "NotImplemented"), name
    assert body_of(bucket, "k") == b"kept"
    assert code_of(S3.head_object, Bucket=bucket, Key="copy")[1] == 404


def test_ranges(bucket):
    data = os.urandom(10_000)
    S3.put_object(Bucket=bucket, Key="k", Body=data)
    for header, wanted in [
        ("bytes=0-0", data[:1]), ("bytes=5-9", data[5:10]), ("bytes=9990-", data[9990:]),
        ("bytes=-7", data[-7:]), ("bytes=9999-20000", data[9999:]), ("bytes=-20000", data),
    ]:
        got = S3.get_object(Bucket=bucket, Key="k", Range=header)
        assert got["ResponseMetadata"]["HTTPStatusCode"] == 206, (header, got)
        assert got["Body"].read() == wanted and got["ContentLength"] == len(wanted), header
        first = len(data) - len(wanted) if header.startswith("bytes=-") else int(header[6:].split("-")[0])
        assert got["ContentRange"] == f"bytes {first}-{first + len(wanted) - 1}/10000", (header, got)
        head = S3.head_object(Bucket=bucket, Key="k", Range=header)
        assert head["ResponseMetadata"]["HTTPStatusCode"] == 206 and head["ContentLength"] == len(wanted), head
    assert code_of(S3.get_object, Bucket=bucket, Key="k", Range="bytes=10000-") == ("InvalidRange", 416)
    assert code_of(S3.get_object, Bucket=bucket, Key="k", Range="bytes=-0") == ("InvalidRange", 416)
    beyond = "bytes=99999999999999999999-"
    assert code_of(S3.get_object, Bucket=bucket, Key="k", Range=beyond) == ("InvalidRange", 416)
    got = S3.get_object(Bucket=bucket, Key="k", Range="bytes=9990-99999999999999999999")
    assert got["ResponseMetadata"]["HTTPStatusCode"] == 206 and got["Body"].read() == data[9990:]
    S3.put_object(Bucket=bucket, Key="empty", Body=b"")
    assert code_of(S3.get_object, Bucket=bucket, Key="empty", Range="bytes=0-") == ("InvalidRange", 416)
    assert code_of(S3.get_object, Bucket=bucket, Key="empty", Range="bytes=-5") == ("InvalidRange", 416)


def test_a_range_of_another_object_is_ignored(bucket):
    def read_if(named, **arguments):
        one = client()
        one.meta.events.register("before-sign.s3", lambda request, **_: request.headers.add_header("If-Range", named))
        head = one.head_object(Bucket=bucket, Key="k", **arguments)
        got = one.get_object(Bucket=bucket, Key="k", **arguments)
        status = got["ResponseMetadata"]["HTTPStatusCode"]
        assert status == head["ResponseMetadata"]["HTTPStatusCode"], (got, head)
        return status, got["Body"].read()

    etag = S3.put_object(Bucket=bucket, Key="k", Body=b"whole")["ETag"]
    modified = S3.head_object(Bucket=bucket, Key="k")["ResponseMetadata"]["HTTPHeaders"]["last-modified"]
    for named in (etag, modified):
        assert read_if(named, Range="bytes=1-2") == (206, b"ho"), named
    for named in ('"other"', f"W/{etag}", "Sun, 09 Sep 2001 01:46:40 GMT"):
        assert read_if(named, Range="bytes=1-2") == (200, b"whole"), named
        assert read_if(named, Range="bytes=99-") == (200, b"whole"), named
    assert read_if('"other"') == (200, b"whole")


def test_ranges_of_wrong_syntax_are_ignored(bucket):
    S3.put_object(Bucket=bucket, Key="dir/k ü+%", Body=b"whole", Metadata={"a": "1"})
    at = {"Bucket": bucket, "Key": "dir/k ü+%"}
    wrong = ["bytes=a-b", "bytes=3-1", "bytes=", "bytes=-", "items=0-1", "0-1", "bytes=0-0,2-2"]
    for header in wrong:
        got = S3.get_object(**at, Range=header)
        assert got["ResponseMetadata"]["HTTPStatusCode"] == 200 and "ContentRange" not in got, (header, got)
        assert got["Body"].read() == b"whole" and got["Metadata"] == {"a": "1"}, header
        head = S3.head_object(**at, Range=header)
        assert head["ResponseMetadata"]["HTTPStatusCode"] == 200 and head["ContentLength"] == 5, (header, head)
        assert code_of(S3.get_object, Bucket=bucket, Key="none", Range=header) == ("NoSuchKey", 404)
        assert code_of(S3.get_object, **at, Range=header, IfMatch='"x"') == ("PreconditionFailed", 412)
    url = client(signature_version="s3v4").generate_presigned_url("get_object", Params=at, ExpiresIn=60)
    assert fetch("GET", url, headers={"Range": "bytes=a-b"}) == (200, b"whole")
    head, signature = url.rsplit("Signature=", 1)
    forged = f"{head}Signature={'0' * 63 + '1'}{signature[64:]}"
    for header in wrong:
        assert fetch("GET", forged, headers={"Range": header})[0] == 403, header
        assert fetch("GET", url.split("?")[0], headers={"Range": header})[0] == 403, header


def test_conditions_of_reads(bucket):
    put = S3.put_object(Bucket=bucket, Key="k", Body=b"x")
    etag, when = put["ETag"], S3.head_object(Bucket=bucket, Key="k")["LastModified"]
    for call in (S3.get_object, S3.head_object):
        at = {"Bucket": bucket, "Key": "k"}
        call(**at, IfMatch=etag)
        call(**at, IfNoneMatch='"other"')
        call(**at, IfUnmodifiedSince=when)
        call(**at, IfMatch=etag, IfUnmodifiedSince="Thu, 01 Jan 2015 00:00:00 GMT")
        call(**at, IfModifiedSince="Thu, 01 Jan 2015 00:00:00 GMT")
        call(**at, IfMatch=f'"other", {etag}')
        assert code_of(call, **at, IfNoneMatch=f'"other", {etag}')[1] == 304
        assert code_of(call, **at, IfMatch='"other"')[1] == 412
        assert code_of(call, **at, IfNoneMatch=etag)[1] == 304
        assert code_of(call, **at, IfNoneMatch="*")[1] == 304
        assert code_of(call, **at, IfModifiedSince=when)[1] == 304
        assert code_of(call, **at, IfUnmodifiedSince="Thu, 01 Jan 2015 00:00:00 GMT")[1] == 412


def test_conditions_of_writes(bucket):
    at = {"Bucket": bucket, "Key": "k"}
    assert code_of(S3.put_object, **at, Body=b"x", IfMatch='"none"') == ("NoSuchKey", 404)
    etag = S3.put_object(**at, Body=b"one", IfNoneMatch="*")["ETag"]
    assert code_of(S3.put_object, **at, Body=b"two", IfNoneMatch="*") == ("PreconditionFailed", 412)
    assert code_of(S3.put_object, **at, Body=b"two", IfMatch='"other"') == ("PreconditionFailed", 412)
    S3.put_object(**at, Body=b"two", IfMatch=etag)
    assert body_of(bucket, "k") == b"two"
    large = os.urandom(3 * MIB)
    assert code_of(S3.put_object, **at, Body=large, IfNoneMatch="*") == ("PreconditionFailed", 412)
    assert body_of(bucket, "k") == b"two"


def test_one_of_many_racing_writers_wins(bucket):
    def race(n):
        try:
            S3.put_object(Bucket=bucket, Key="k", Body=str(n).encode(), IfNoneMatch="*")
            return n
        except ClientError as error:
            assert error.response["Error"]["Code"] == "PreconditionFailed", error
            return None

    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        winners = [n for n in pool.map(race, range(100)) if n is not None]
    assert len(winners) == 1, winners
    assert body_of(bucket, "k") == str(winners[0]).encode()


def upload(bucket, key, parts, **begin):
    begun = S3.create_multipart_upload(Bucket=bucket, Key=key, **begin)
    at = {"Bucket": bucket, "Key": key, "UploadId": begun["UploadId"]}
    done = []
    for number, data in parts:
        answer = S3.upload_part(**at, PartNumber=number, Body=data)
        done.append({"PartNumber": number, **{k: v for k, v in answer.items() if k == "ETag" or k.startswith("Checksum")}})
    return at, done


def etag_of(parts):
    joined = b"".join(hashlib.md5(data).digest() for _, data in parts)
    return f'"{hashlib.md5(joined).hexdigest()}-{len(parts)}"'


def test_uploads_in_parts(bucket):
    parts = [(2, os.urandom(5 * MIB)), (5, os.urandom(5 * MIB + 1)), (9, os.urandom(10))]
    at, done = upload(bucket, "k", parts, ContentType="text/csv", Metadata={"a": "b"})
    listed = S3.list_parts(**at, MaxParts=2)
    assert [p["PartNumber"] for p in listed["Parts"]] == [2, 5] and listed["IsTruncated"], listed
    rest = S3.list_parts(**at, PartNumberMarker=listed["NextPartNumberMarker"])
    assert [p["Size"] for p in rest["Parts"]] == [10] and not rest["IsTruncated"], rest
    open_now = S3.list_multipart_uploads(Bucket=bucket)["Uploads"]
    assert [u["Key"] for u in open_now] == ["k"] and open_now[0]["UploadId"] == at["UploadId"], open_now
    assert code_of(S3.head_object, Bucket=bucket, Key="k")[1] == 404
    answer = S3.complete_multipart_upload(**at, MultipartUpload={"Parts": done})
    assert answer["ETag"] == etag_of(parts), answer
    assert answer["Location"] == f"{os.environ['S3_ENDPOINT']}/{bucket}/k", answer
    again = S3.complete_multipart_upload(**at, MultipartUpload={"Parts": done})
    assert again["ETag"] == answer["ETag"], again
    whole = b"".join(data for _, data in parts)
    got = S3.get_object(Bucket=bucket, Key="k")
    assert got["Body"].read() == whole and got["ContentType"] == "text/csv" and got["Metadata"] == {"a": "b"}
    second = S3.get_object(Bucket=bucket, Key="k", PartNumber=2)
    assert second["PartsCount"] == 3 and second["Body"].read() == parts[1][1]
    assert "Uploads" not in S3.list_multipart_uploads(Bucket=bucket)


def test_completions_at_once_are_one(bucket):
    for n in range(20):
        at, done = upload(bucket, f"k{n}", [(1, b"part")])
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            complete = lambda _: S3.complete_multipart_upload(**at, MultipartUpload={"Parts": done})["ETag"]
            assert len(set(pool.map(complete, range(4)))) == 1
        assert body_of(bucket, f"k{n}") == b"part"


def test_listings_of_uploads(bucket):
    keys = ["a/1", "a/2", "a/3", "b", "b", "b/1", "ba", "c//1", "c//2"]
    ids = [S3.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"] for key in keys]
    expected = sorted(zip(keys, ids))
    listing = S3.get_paginator("list_multipart_uploads")
    for size in (1, 2, 3, 100):
        pages = lambda **asked: list(listing.paginate(Bucket=bucket, PaginationConfig={"PageSize": size}, **asked))
        shown = lambda pages: [(u["Key"], u["UploadId"]) for page in pages for u in page.get("Uploads", [])]
        assert shown(pages()) == expected, size
        assert shown(pages(Prefix="b")) == [one for one in expected if one[0].startswith("b")], size
        rolled = pages(Delimiter="/")
        assert [p["Prefix"] for page in rolled for p in page.get("CommonPrefixes", [])] == ["a/", "b/", "c/"], rolled
        assert shown(rolled) == [one for one in expected if "/" not in one[0]], size
        counts = [len(page.get("Uploads", [])) + len(page.get("CommonPrefixes", [])) for page in rolled]
        assert sum(counts) == 6 and set(counts[:-1]) <= {size}, (size, counts)
    behind = S3.list_multipart_uploads(Bucket=bucket, KeyMarker="b")["Uploads"]
    assert [u["Key"] for u in behind] == ["b/1", "ba", "c//1", "c//2"], behind
    none = S3.list_multipart_uploads(Bucket=bucket, MaxUploads=0)
    assert "Uploads" not in none and not none["IsTruncated"], none


def test_refused_completions(bucket):
    parts = [(1, os.urandom(5 * MIB)), (2, os.urandom(100)), (3, os.urandom(100))]
    at, done = upload(bucket, "k", parts)
    complete = lambda chosen: code_of(S3.complete_multipart_upload, **at, MultipartUpload={"Parts": chosen})
    assert complete(done) == ("EntityTooSmall", 400)
    assert complete([done[1], done[0]]) == ("InvalidPartOrder", 400)
    assert complete([{**done[0], "ETag": '"00"'}]) == ("InvalidPart", 400)
    assert complete([{**done[0], "PartNumber": 7}]) == ("InvalidPart", 400)
    assert complete([])[0] == "MalformedXML"
    S3.put_object(Bucket=bucket, Key="k", Body=b"there")
    absent = code_of(S3.complete_multipart_upload, **at, MultipartUpload={"Parts": done[:2]}, IfNoneMatch="*")
    assert absent == ("PreconditionFailed", 412)
    assert body_of(bucket, "k") == b"there"
    S3.complete_multipart_upload(**at, MultipartUpload={"Parts": done[:2]})
    assert body_of(bucket, "k") == parts[0][1] + parts[1][1]
    assert code_of(S3.upload_part, **at, PartNumber=1, Body=b"x") == ("NoSuchUpload", 404)
    at, done = upload(bucket, "gone", parts[:1])
    S3.abort_multipart_upload(**at)
    assert code_of(S3.abort_multipart_upload, **at) == ("NoSuchUpload", 404)
    assert code_of(S3.complete_multipart_upload, **at, MultipartUpload={"Parts": done}) == ("NoSuchUpload", 404)
    assert code_of(S3.upload_part, **at, PartNumber=0, Body=b"x")[1] == 400


def test_checksums_of_uploads_in_parts(bucket):
    parts = [(1, os.urandom(5 * MIB)), (2, os.urandom(1000))]
    for kind, chosen in [("COMPOSITE", "CRC32"), ("FULL_OBJECT", "CRC32"), ("COMPOSITE", "SHA256")]:
        at, done = upload(bucket, kind, parts, ChecksumAlgorithm=chosen, ChecksumType=kind)
        other = [{**done[0], f"Checksum{chosen}": done[1][f"Checksum{chosen}"]}, done[1]]
        refused = code_of(S3.complete_multipart_upload, **at, MultipartUpload={"Parts": other}, ChecksumType=kind)
        assert refused == ("InvalidPart", 400), refused
        answer = S3.complete_multipart_upload(**at, MultipartUpload={"Parts": done}, ChecksumType=kind)
        assert answer["ChecksumType"] == kind, answer
        found = answer[f"Checksum{chosen}"]
        if (kind, chosen) == ("FULL_OBJECT", "CRC32"):
            assert found == crc32(parts[0][1] + parts[1][1]), found
        elif chosen == "CRC32":
            joined = b"".join(zlib.crc32(data).to_bytes(4, "big") for _, data in parts)
            assert found == crc32(joined) + "-2", found
        else:
            assert found.endswith("-2"), found
        assert body_of(bucket, kind, ChecksumMode="ENABLED") == parts[0][1] + parts[1][1]


def test_types_of_checksums_are_what_was_begun_with(bucket):
    at = {"Bucket": bucket, "Key": "k"}
    for asked in (
        {"ChecksumAlgorithm": "SHA256", "ChecksumType": "FULL_OBJECT"},
        {"ChecksumAlgorithm": "CRC64NVME", "ChecksumType": "COMPOSITE"},
        {"ChecksumAlgorithm": "CRC32", "ChecksumType": "OTHER"},
    ):
        assert code_of(S3.create_multipart_upload, **at, **asked) == ("InvalidRequest", 400), asked
    typed = saying({"x-amz-checksum-type": "COMPOSITE"})
    assert code_of(typed.create_multipart_upload, **at) == ("InvalidRequest", 400)
    for algorithm, kind in (("CRC32", "COMPOSITE"), ("SHA1", "COMPOSITE"), ("CRC64NVME", "FULL_OBJECT")):
        begun = S3.create_multipart_upload(**at, ChecksumAlgorithm=algorithm)
        assert begun["ChecksumType"] == kind, begun
        assert S3.list_parts(**at, UploadId=begun["UploadId"])["ChecksumType"] == kind
    at, done = upload(bucket, "k", [(1, b"part")], ChecksumAlgorithm="CRC32", ChecksumType="FULL_OBJECT")
    other = code_of(S3.complete_multipart_upload, **at, MultipartUpload={"Parts": done}, ChecksumType="COMPOSITE")
    assert other == ("InvalidRequest", 400), other
    S3.complete_multipart_upload(**at, MultipartUpload={"Parts": done}, ChecksumType="FULL_OBJECT")
    assert body_of(bucket, "k") == b"part"


def test_a_completion_s_checksum_is_compared(bucket):
    parts = [(1, os.urandom(5 * MIB)), (2, os.urandom(1000))]
    whole = parts[0][1] + parts[1][1]
    sha256 = base64.b64encode(hashlib.sha256(whole).digest()).decode()
    joined = b"".join(zlib.crc32(data).to_bytes(4, "big") for _, data in parts)
    full = {"ChecksumAlgorithm": "CRC32", "ChecksumType": "FULL_OBJECT"}
    plain = client(request_checksum_calculation="when_required")
    for begin, right in [
        (full, {"ChecksumCRC32": crc32(whole)}),
        (full, {"ChecksumCRC32": crc32(whole), "ChecksumType": "FULL_OBJECT"}),
        ({"ChecksumAlgorithm": "CRC32"}, {"ChecksumCRC32": crc32(joined)}),
        ({"ChecksumAlgorithm": "CRC32"}, {"ChecksumCRC32": f"{crc32(joined)}-2", "ChecksumType": "COMPOSITE"}),
        # Nothing was said at the beginning.
        ({}, {"ChecksumCRC32": crc32(whole)}),
        ({}, {"ChecksumSHA256": sha256}),
    ]:
        begun = plain.create_multipart_upload(Bucket=bucket, Key="k", **begin)
        at = {"Bucket": bucket, "Key": "k", "UploadId": begun["UploadId"]}
        done = [{"PartNumber": n, "ETag": plain.upload_part(**at, PartNumber=n, Body=data)["ETag"]} for n, data in parts]
        name = next(iter(right))
        wrong = {**right, name: base64.b64encode(bytes(4 if name == "ChecksumCRC32" else 32)).decode()}
        refused = code_of(plain.complete_multipart_upload, **at, MultipartUpload={"Parts": done}, **wrong)
        assert refused == ("BadDigest", 400), (begin, wrong, refused)
        answer = plain.complete_multipart_upload(**at, MultipartUpload={"Parts": done}, **right)
        assert answer[name].startswith(right[name]), (begin, right, answer)
        assert body_of(bucket, "k") == whole


def test_managed_transfers(bucket):
    data = os.urandom(21 * MIB + 3)
    config = TransferConfig(multipart_threshold=8 * MIB, multipart_chunksize=8 * MIB)
    S3.upload_fileobj(io.BytesIO(data), bucket, "k", Config=config, ExtraArgs={"Metadata": {"x": "y"}})
    assert S3.head_object(Bucket=bucket, Key="k")["ETag"].endswith('-3"')
    out = io.BytesIO()
    S3.download_fileobj(bucket, "k", out, Config=config)
    assert out.getvalue() == data
    S3.copy({"Bucket": bucket, "Key": "k"}, bucket, "copied", Config=config)
    assert body_of(bucket, "copied") == data
    assert S3.head_object(Bucket=bucket, Key="copied")["Metadata"] == {"x": "y"}


def test_part_copies(bucket):
    data = os.urandom(12 * MIB)
    S3.put_object(Bucket=bucket, Key="source +%", Body=data)
    at, _ = upload(bucket, "k", [], ChecksumAlgorithm="CRC32")
    done = []
    for number, (first, last) in enumerate([(0, 6 * MIB - 1), (6 * MIB, 12 * MIB - 1)], start=1):
        answer = S3.upload_part_copy(
            **at, PartNumber=number, CopySource={"Bucket": bucket, "Key": "source +%"},
            CopySourceRange=f"bytes={first}-{last}",
        )
        done.append({"PartNumber": number, "ETag": answer["CopyPartResult"]["ETag"]})
        assert answer["CopyPartResult"]["ChecksumCRC32"] == crc32(data[first:last + 1]), answer
    for header, code in [
        (f"bytes=0-{12 * MIB}", "InvalidRange"), ("bytes=5-", "InvalidArgument"), ("bytes=-5", "InvalidArgument"),
        ("0-4", "InvalidArgument"), ("bytes=4-2", "InvalidArgument"),
    ]:
        refused = code_of(
            S3.upload_part_copy, **at, PartNumber=3, CopySource={"Bucket": bucket, "Key": "source +%"},
            CopySourceRange=header,
        )
        assert refused[0] == code, (header, refused)
    S3.complete_multipart_upload(**at, MultipartUpload={"Parts": done})
    assert body_of(bucket, "k") == data


def test_copies(bucket):
    put = S3.put_object(Bucket=bucket, Key="a", Body=b"x" * 9000, Metadata={"m": "1"}, ContentType="text/plain")
    source = {"Bucket": bucket, "Key": "a"}
    copied = S3.copy_object(Bucket=bucket, Key="b", CopySource=source, CopySourceIfMatch=put["ETag"])
    assert copied["CopyObjectResult"]["ETag"] == put["ETag"], copied
    assert S3.head_object(Bucket=bucket, Key="b")["Metadata"] == {"m": "1"}
    S3.copy_object(Bucket=bucket, Key="c", CopySource=source, MetadataDirective="REPLACE", Metadata={"n": "2"})
    assert S3.head_object(Bucket=bucket, Key="c")["Metadata"] == {"n": "2"}
    assert code_of(S3.copy_object, Bucket=bucket, Key="a", CopySource=source) == ("InvalidRequest", 400)
    refused = code_of(S3.copy_object, Bucket=bucket, Key="d", CopySource=source, CopySourceIfMatch='"other"')
    assert refused == ("PreconditionFailed", 412)
    missing = {"Bucket": bucket, "Key": "missing"}
    assert code_of(S3.copy_object, Bucket=bucket, Key="d", CopySource=missing) == ("NoSuchKey", 404)
    S3.copy_object(Bucket=bucket, Key="e", CopySource=source, IfNoneMatch="*")
    there = code_of(S3.copy_object, Bucket=bucket, Key="e", CopySource=source, IfNoneMatch="*")
    assert there == ("PreconditionFailed", 412), there
    other = code_of(S3.copy_object, Bucket=bucket, Key="e", CopySource=source, IfMatch='"other"')
    assert other == ("PreconditionFailed", 412), other
    S3.copy_object(Bucket=bucket, Key="e", CopySource=source, IfMatch=put["ETag"])
    for directive in ("MetadataDirective", "TaggingDirective"):
        for word in ("replace", "NOPE"):
            refused = code_of(S3.copy_object, Bucket=bucket, Key="f", CopySource=source, **{directive: word})
            assert refused == ("InvalidArgument", 400), (directive, word, refused)
        S3.copy_object(Bucket=bucket, Key="g", CopySource=source, **{directive: "COPY"})
    S3.copy_object(Bucket=bucket, Key="g", CopySource=source, TaggingDirective="REPLACE")
    assert S3.head_object(Bucket=bucket, Key="g")["Metadata"] == {"m": "1"}
    assert code_of(S3.head_object, Bucket=bucket, Key="f")[1] == 404


def test_a_plus_in_a_copy_s_source_is_a_space(bucket):
    S3.put_object(Bucket=bucket, Key="a b", Body=b"space")
    S3.put_object(Bucket=bucket, Key="c+d", Body=b"plus")
    for source, found in (("a+b", b"space"), ("a%20b", b"space"), ("c%2Bd", b"plus")):
        headers = {"x-amz-copy-source": f"{bucket}/{source}"}
        status, _, answer = signed("PUT", f"/{bucket}/copied", headers)
        assert status == 200 and body_of(bucket, "copied") == found, (source, answer)
        at = {"Bucket": bucket, "Key": "in-parts"}
        at["UploadId"] = S3.create_multipart_upload(**at)["UploadId"]
        status, _, answer = signed("PUT", f"/{bucket}/in-parts?partNumber=1&uploadId={at['UploadId']}", headers)
        assert status == 200, (source, answer)
        assert [part["Size"] for part in S3.list_parts(**at)["Parts"]] == [len(found)], source
    assert signed("PUT", f"/{bucket}/copied", {"x-amz-copy-source": f"{bucket}/c+d"})[0] == 404


def test_what_a_writer_cannot_have_is_refused(bucket):
    for asked in (
        {"Tagging": "a=b"}, {"ServerSideEncryption": "AES256"}, {"ACL": "public-read"}, {"StorageClass": "GLACIER"},
    ):
        assert code_of(S3.put_object, Bucket=bucket, Key="k", Body=b"x", **asked) == ("NotImplemented", 501), asked
        begun = code_of(S3.create_multipart_upload, Bucket=bucket, Key="k", **asked)
        assert begun == ("NotImplemented", 501), asked
    S3.put_object(Bucket=bucket, Key="k", Body=b"x", ACL="private", StorageClass="STANDARD")
    new = f"{bucket}-new"
    for asked in ({"ObjectLockEnabledForBucket": True}, {"ACL": "public-read"}, {"GrantWrite": "id=a"}):
        assert code_of(S3.create_bucket, Bucket=new, **asked) == ("NotImplemented", 501), asked
    assert code_of(S3.head_bucket, Bucket=new)[1] == 404
    S3.create_bucket(Bucket=new, ACL="private", ObjectLockEnabledForBucket=False)
    S3.delete_bucket(Bucket=new)


def test_readers_choose_what_they_are_told(bucket):
    S3.put_object(Bucket=bucket, Key="k", Body=b"x", ContentType="text/csv", CacheControl="no-store")
    asked = {"ResponseContentType": "text/plain", "ResponseContentDisposition": "attachment"}
    for call in (S3.get_object, S3.head_object):
        got = call(Bucket=bucket, Key="k", **asked)
        assert (got["ContentType"], got["ContentDisposition"]) == ("text/plain", "attachment"), got
        assert got["CacheControl"] == "no-store", got


KEYS = ["a", "a/", "a/b", "a//c", "../x", "b c", "b+c", "ü/日", "%41", "<&>", "\x01\x02", "z/1", "z/2", "\r\n"]


def test_listings(bucket):
    for key in KEYS:
        S3.put_object(Bucket=bucket, Key=key, Body=key.encode())
    in_order = sorted(KEYS, key=str.encode)
    for name in ("list_objects_v2", "list_objects"):
        pages = S3.get_paginator(name).paginate(Bucket=bucket, PaginationConfig={"PageSize": 3})
        assert [o["Key"] for page in pages for o in page.get("Contents", [])] == in_order, name
        pages = list(S3.get_paginator(name).paginate(Bucket=bucket, Delimiter="/", PaginationConfig={"PageSize": 2}))
        prefixes = [p["Prefix"] for page in pages for p in page.get("CommonPrefixes", [])]
        assert prefixes == ["../", "a/", "z/", "ü/"], prefixes
        keys = [o["Key"] for page in pages for o in page.get("Contents", [])]
        assert keys == [k for k in in_order if "/" not in k], keys
    page = S3.list_objects_v2(Bucket=bucket, Prefix="z/", StartAfter="z/1", FetchOwner=True)
    assert [o["Key"] for o in page["Contents"]] == ["z/2"] and page["KeyCount"] == 1, page
    assert page["Contents"][0]["Owner"]["ID"] and page["Contents"][0]["StorageClass"] == "STANDARD", page
    none = S3.list_objects_v2(Bucket=bucket, MaxKeys=0)
    assert none["KeyCount"] == 0 and not none["IsTruncated"], none
    assert code_of(S3.list_objects_v2, Bucket=bucket, ContinuationToken="%%%")[0] == "InvalidArgument"
    assert code_of(S3.list_objects_v2, Bucket=bucket, MaxKeys=-1)[0] == "InvalidArgument"


def test_deletes(bucket):
    for n in range(20):
        S3.put_object(Bucket=bucket, Key=f"k{n}", Body=b"x")
    S3.delete_object(Bucket=bucket, Key="k0")
    S3.delete_object(Bucket=bucket, Key="k0")
    wanted = {"Objects": [{"Key": f"k{n}"} for n in range(15)]}
    answer = S3.delete_objects(Bucket=bucket, Delete=wanted)
    assert len(answer["Deleted"]) == 15 and "Errors" not in answer, answer
    nameless = {"Objects": [{"Key": "k15"}, {"Key": ""}]}
    unchecked = client(parameter_validation=False)
    assert code_of(unchecked.delete_objects, Bucket=bucket, Delete=nameless) == ("MalformedXML", 400)
    answer = S3.delete_objects(Bucket=bucket, Delete={**wanted, "Quiet": True})
    assert "Deleted" not in answer, answer
    left = [o["Key"] for o in S3.list_objects_v2(Bucket=bucket)["Contents"]]
    assert left == sorted(f"k{n}" for n in range(15, 20)), left


def test_bodies_that_are_not_what_was_sent_do_nothing(bucket):
    def after(event, change):
        one = client()
        one.meta.events.register(f"{event}.s3", change)
        return one

    def saying(name, value):
        def change(request, **_):
            del request.headers[name]
            request.headers[name] = value(request.data) if callable(value) else value

        return after("before-sign", change)

    def alter(request, **_):
        request.body = request.body.replace(b"kept", b"lost")

    def md5(data):
        return base64.b64encode(hashlib.md5(data).digest()).decode()

    arguments = {"Bucket": bucket, "Delete": {"Objects": [{"Key": "kept"}, {"Key": "lost"}]}}
    for key in ("kept", "lost"):
        S3.put_object(Bucket=bucket, Key=key, Body=b"x")
    assert code_of(saying("Content-MD5", md5(b"x")).delete_objects, **arguments) == ("BadDigest", 400)
    assert code_of(saying("Content-MD5", "x").delete_objects, **arguments) == ("InvalidDigest", 400)
    assert code_of(saying("x-amz-checksum-crc32", crc32(b"x")).delete_objects, **arguments) == ("BadDigest", 400)
    mismatch = ("XAmzContentSHA256Mismatch", 400)
    assert code_of(after("before-send", alter).delete_objects, **arguments) == mismatch
    assert body_of(bucket, "kept") == body_of(bucket, "lost") == b"x"
    assert len(saying("Content-MD5", md5).delete_objects(**arguments)["Deleted"]) == 2

    # What says of which parts an object is made.
    begun = S3.create_multipart_upload(Bucket=bucket, Key="parts")["UploadId"]
    part = S3.upload_part(Bucket=bucket, Key="parts", UploadId=begun, PartNumber=1, Body=b"kept")
    parts = {"Bucket": bucket, "Key": "parts", "UploadId": begun}
    parts["MultipartUpload"] = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}

    def renumber(request, **_):
        request.body = request.body.replace(b">1<", b">2<")

    assert code_of(after("before-send", renumber).complete_multipart_upload, **parts) == mismatch
    assert code_of(saying("Content-MD5", md5(b"x")).complete_multipart_upload, **parts) == ("BadDigest", 400)
    S3.complete_multipart_upload(**parts)
    assert body_of(bucket, "parts") == b"kept"


def test_a_version_that_is_not_there_takes_no_object_with_it(bucket):
    S3.put_object(Bucket=bucket, Key="k", Body=b"x")
    assert code_of(S3.delete_object, Bucket=bucket, Key="k", VersionId="old") == ("NoSuchVersion", 404)
    several = {"Objects": [{"Key": "k", "VersionId": "old"}, {"Key": "other"}]}
    answer = S3.delete_objects(Bucket=bucket, Delete=several)
    assert [(e["Key"], e["Code"]) for e in answer["Errors"]] == [("k", "NoSuchVersion")], answer
    assert [d["Key"] for d in answer["Deleted"]] == ["other"], answer
    assert body_of(bucket, "k") == b"x"
    assert code_of(S3.delete_object, Bucket=bucket, Key="k", IfMatchSize=99) == ("NotImplemented", 501)
    sized = {"Objects": [{"Key": "k", "Size": 99}]}
    assert code_of(S3.delete_objects, Bucket=bucket, Delete=sized) == ("NotImplemented", 501)
    assert body_of(bucket, "k") == b"x"
    S3.delete_object(Bucket=bucket, Key="k", VersionId="null")
    assert code_of(S3.head_object, Bucket=bucket, Key="k")[1] == 404


def test_keys_have_a_bound(bucket):
    longest = "k" * 1024
    S3.put_object(Bucket=bucket, Key=longest, Body=b"x")
    assert body_of(bucket, longest) == b"x"
    assert code_of(S3.put_object, Bucket=bucket, Key=longest + "k", Body=b"x") == ("KeyTooLongError", 400)
    large = {"m": "x" * 2100}
    assert code_of(S3.put_object, Bucket=bucket, Key="k", Body=b"x", Metadata=large) == ("MetadataTooLarge", 400)


def test_buckets(bucket):
    own = bucket + "-own"
    S3.create_bucket(Bucket=own)
    assert code_of(S3.create_bucket, Bucket=own) == ("BucketAlreadyOwnedByYou", 409)
    assert own in [b["Name"] for b in S3.list_buckets()["Buckets"]]
    assert [b["Name"] for b in S3.list_buckets(Prefix=own)["Buckets"]] == [own]
    pages = S3.get_paginator("list_buckets").paginate(PaginationConfig={"PageSize": 2})
    sizes, names = [], []
    for page in pages:
        sizes.append(len(page["Buckets"]))
        names += [b["Name"] for b in page["Buckets"]]
    assert names == [b["Name"] for b in S3.list_buckets()["Buckets"]] and set(sizes[:-1]) <= {2}, (sizes, names)
    assert S3.get_bucket_location(Bucket=own)["LocationConstraint"] is None
    assert "Status" not in S3.get_bucket_versioning(Bucket=own)
    S3.put_object(Bucket=own, Key="k", Body=b"x")
    assert code_of(S3.delete_bucket, Bucket=own) == ("BucketNotEmpty", 409)
    S3.delete_object(Bucket=own, Key="k")
    upload(own, "open", [(1, b"x")])
    S3.delete_bucket(Bucket=own)
    assert code_of(S3.head_bucket, Bucket=own) == ("404", 404)
    assert code_of(S3.delete_bucket, Bucket=own) == ("NoSuchBucket", 404)
    assert code_of(S3.put_object, Bucket=own, Key="k", Body=b"x") == ("NoSuchBucket", 404)
    assert code_of(S3.list_objects_v2, Bucket=own) == ("NoSuchBucket", 404)
    assert code_of(S3.create_multipart_upload, Bucket=own, Key="k") == ("NoSuchBucket", 404)


def send(method, url, data=None, headers=None):
    request = urllib.request.Request(url, data=data, method=method, headers=headers or {})
    try:
        return urllib.request.urlopen(request)
    except urllib.error.HTTPError as error:
        return error


def fetch(method, url, data=None, headers=None):
    with send(method, url, data, headers) as answer:
        return answer.status, answer.read()


def signed(method, path, headers=None, data=b"", region=None):
    """Any request at all: the status, the headers and the body of its answer."""
    url = f"{os.environ['S3_ENDPOINT']}{path}"
    request = AWSRequest(method, url, headers=headers or {}, data=data)
    S3SigV4Auth(boto3.Session().get_credentials(), "s3", region or S3.meta.region_name).add_auth(request)
    body = data if method in ("PUT", "POST") else None
    sent = urllib.request.Request(url, data=body, method=method, headers=dict(request.headers.items()))
    try:
        with urllib.request.urlopen(sent) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def test_keys_with_control_characters_stay_what_they_are(bucket):
    keys = ["d/in\n.csv", "d/in\r\n.csv", "d/in\r.csv"]
    for key in keys:
        S3.put_object(Bucket=bucket, Key=key, Body=b"a\r\nb", ContentType="application/xml")
    status, _, answer = signed("GET", f"/{bucket}?list-type=2")
    found = [key.text for key in xml.etree.ElementTree.fromstring(answer).iter() if key.tag.endswith("Key")]
    assert (status, found) == (200, keys), answer
    assert body_of(bucket, keys[0]) == b"a\r\nb"
    answer = S3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": keys[1]}]})
    assert [d["Key"] for d in answer["Deleted"]] == keys[1:2], answer
    for odd in ("\x01", "\ufffe"):
        key = f"a{odd}"
        S3.put_object(Bucket=bucket, Key=key, Body=b"x")
        data = f"<Delete><Object><Key>{key}</Key></Object></Delete>".encode()
        status, _, answer = signed("POST", f"/{bucket}?delete", data=data)
        assert status == 400 and b"MalformedXML" in answer, answer
        assert body_of(bucket, key) == b"x"
    assert b"<Key>a&#x1;</Key>" in signed("GET", f"/{bucket}?list-type=2&prefix=a")[2]


def test_a_region_that_can_be_none_is_told_the_right_one(bucket):
    for method, path in [("GET", "/"), ("PUT", f"/{bucket}/k")]:
        status, headers, answer = signed(method, path, region="US")
        told = xml.etree.ElementTree.fromstring(answer)
        assert (status, told.findtext("Code")) == (400, "AuthorizationHeaderMalformed"), answer
        assert told.findtext("Region") == headers["x-amz-bucket-region"] == "us-east-1", answer
    # Another one may be meant for a server that is somewhere else.
    assert signed("GET", "/", region="eu-west-1")[0] == 200


def test_presigned_urls(bucket):
    presigning = client(signature_version="s3v4")
    at = {"Bucket": bucket, "Key": "dir/k ü+%"}
    put = presigning.generate_presigned_url("put_object", Params=at, ExpiresIn=60)
    assert fetch("PUT", put, b"presigned")[0] == 200
    get = presigning.generate_presigned_url("get_object", Params=at, ExpiresIn=60)
    assert fetch("GET", get) == (200, b"presigned")
    assert fetch("PUT", get, b"x")[0] == 403
    head, signature = get.rsplit("Signature=", 1)
    assert fetch("GET", f"{head}Signature={'0' * 63 + '1'}{signature[64:]}")[0] == 403
    long = presigning.generate_presigned_url("get_object", Params=at, ExpiresIn=700_000)
    assert fetch("GET", long)[0] == 400
    old = client(signature_version="s3").generate_presigned_url("get_object", Params=at, ExpiresIn=60)
    assert fetch("GET", old)[0] == 403, "a signature of version 2"
    plain = f"{os.environ['S3_ENDPOINT']}/{bucket}/k"
    assert fetch("GET", plain)[0] == 403 and fetch("PUT", plain, b"x")[0] == 403


def test_a_presigned_url_does_what_it_was_made_for(bucket):
    S3.put_object(Bucket=bucket, Key="secret", Body=b"secret")
    presigning = client(signature_version="s3v4")
    put = presigning.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": "mine"}, ExpiresIn=60)
    copy = {"x-amz-copy-source": f"/{bucket}/secret"}
    assert fetch("PUT", put, b"", copy)[0] == 403
    other = "AWS4-HMAC-SHA256 Credential=a/20261129/us-east-1/s3/aws4_request, SignedHeaders=host;x-amz-copy-source, Signature=0"
    assert fetch("PUT", put, b"", {**copy, "Authorization": other})[0] == 403
    assert fetch("PUT", put, b"", {"x-amz-meta-a": "b"})[0] == 403
    assert code_of(S3.head_object, Bucket=bucket, Key="mine")[1] == 404
    assert fetch("PUT", put, b"mine")[0] == 200 and body_of(bucket, "mine") == b"mine"
    at = {"Bucket": bucket, "Key": "mine"}
    old = client(signature_version="s3").generate_presigned_url("get_object", Params=at, ExpiresIn=60)
    assert fetch("GET", old.replace("AWSAccessKeyId", "AWS%41ccessKeyId"))[0] == 403, "a signature of version 2"
    long = presigning.generate_presigned_url("get_object", Params=at, ExpiresIn=700_000)
    assert fetch("GET", long.replace("X-Amz-Expires", "X-%41mz-Expires"))[0] == 400


def put_in_chunks(bucket, key, chunks, length, trailer, announced="x-amz-checksum-crc32", **more):
    """A put in AWS's own encoding without signatures of chunks, which boto3 sends over TLS only."""
    sent = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n" + trailer + b"\r\n"
    url = f"{os.environ['S3_ENDPOINT']}/{bucket}/{key}"
    headers = {"x-amz-decoded-content-length": str(length), "x-amz-trailer": announced}
    request = AWSRequest("PUT", url, headers={"content-encoding": "aws-chunked", **headers, **more}, data=sent)
    request.context["checksum"] = {"request_algorithm": {"in": "trailer"}}
    S3SigV4Auth(boto3.Session().get_credentials(), "s3", S3.meta.region_name).add_auth(request)
    status, answer = fetch("PUT", url, sent, dict(request.headers.items()))
    code = re.search(rb"<Code>(.*)</Code>", answer)
    return status, code and code[1].decode()


def test_bodies_in_chunks(bucket):
    data = os.urandom(9 * MIB + 1)
    right = f"x-amz-checksum-crc32:{crc32(data)}\r\n".encode()
    for chunks in ([data], [data[:70_000], data[70_000:]], [data[n:n + 8192] for n in range(0, len(data), 8192)]):
        assert put_in_chunks(bucket, "k", chunks, len(data), right) == (200, None), len(chunks)
        assert body_of(bucket, "k") == data
    wrong = f"x-amz-checksum-crc32:{crc32(b'x')}\r\n".encode()
    assert put_in_chunks(bucket, "bad", [data], len(data), wrong) == (400, "BadDigest")
    assert put_in_chunks(bucket, "bad", [data], 1, right) == (400, "IncompleteBody")
    for other in (b"", b"x-amz-checksum-sha1:AAAA\r\n"):
        assert put_in_chunks(bucket, "bad", [data], len(data), other) == (400, "MalformedTrailerError")
    assert code_of(S3.head_object, Bucket=bucket, Key="bad")[1] == 404


@contextlib.contextmanager
def localhost_known():
    """Not every machine knows that all names under localhost are itself."""
    resolve = socket.getaddrinfo
    at_home = lambda host, *rest, **more: resolve("127.0.0.1" if host.endswith("localhost") else host, *rest, **more)
    socket.getaddrinfo = at_home
    try:
        yield
    finally:
        socket.getaddrinfo = resolve


def client_of(host, style):
    port = urllib.parse.urlsplit(os.environ["S3_ENDPOINT"]).port
    settings = Config(s3={"addressing_style": style}, retries={"max_attempts": 1}, signature_version="s3v4")
    return boto3.client("s3", endpoint_url=f"http://{host}:{port}", config=settings)


def test_buckets_in_the_names_of_hosts(bucket):
    port = urllib.parse.urlsplit(os.environ["S3_ENDPOINT"]).port
    virtual = client_of("localhost", "virtual")
    at = {"Bucket": bucket, "Key": "dir/k ü+%"}
    url = virtual.generate_presigned_url("get_object", Params=at, ExpiresIn=60)
    assert url.startswith(f"http://{bucket}.localhost:{port}/dir/"), url
    with localhost_known():
        virtual.put_object(**at, Body=b"whole")
        assert body_of(bucket, at["Key"]) == b"whole"
        assert virtual.get_object(**at, Range="bytes=1-2")["Body"].read() == b"ho"
        assert virtual.get_object(**at, Range="bytes=a-b")["Body"].read() == b"whole"
        assert fetch("GET", url) == (200, b"whole")
        assert [o["Key"] for o in virtual.list_objects_v2(Bucket=bucket)["Contents"]] == [at["Key"]]
        begun = virtual.create_multipart_upload(Bucket=bucket, Key="parts")["UploadId"]
        part = {"Bucket": bucket, "Key": "parts", "UploadId": begun}
        etag = virtual.upload_part(**part, PartNumber=1, Body=b"part")["ETag"]
        chosen = {"Parts": [{"PartNumber": 1, "ETag": etag}]}
        virtual.complete_multipart_upload(**part, MultipartUpload=chosen)
        assert body_of(bucket, "parts") == b"part"
        virtual.copy_object(Bucket=bucket, Key="copied", CopySource=at)
        names = {"Objects": [{"Key": key} for key in (at["Key"], "parts", "copied")]}
        assert len(virtual.delete_objects(Bucket=bucket, Delete=names)["Deleted"]) == 3
        virtual.create_bucket(Bucket=f"{bucket}-virtual")
        virtual.delete_bucket(Bucket=f"{bucket}-virtual")
        assert bucket in [b["Name"] for b in virtual.list_buckets()["Buckets"]]


def test_the_name_of_the_server_is_no_bucket(bucket):
    by_path, virtual = client_of("s3.localhost", "path"), client_of("s3.localhost", "virtual")
    other = f"{bucket}-other"
    with localhost_known():
        by_path.create_bucket(Bucket=other)
        assert other in [b["Name"] for b in by_path.list_buckets()["Buckets"]]
        by_path.put_object(Bucket=bucket, Key="dir/k", Body=b"whole")
        assert virtual.get_object(Bucket=bucket, Key="dir/k")["Body"].read() == b"whole"
        virtual.put_object(Bucket=bucket, Key=other, Body=b"called like a bucket")
        virtual.delete_object(Bucket=bucket, Key=other)
        by_path.delete_bucket(Bucket=other)


def test_a_host_that_may_be_a_bucket_reaches_no_other(bucket):
    astray = client_of("fanfold.localhost", "path")
    with localhost_known():
        # The same request is that for a key of a bucket that is gone.
        assert code_of(astray.delete_bucket, Bucket=bucket) == ("NoSuchBucket", 404)
        S3.head_bucket(Bucket=bucket)
        try:
            astray.create_bucket(Bucket=f"{bucket}-astray")
            raise AssertionError("a bucket was made of what may be a key")
        except ClientError as error:
            assert "reached at localhost" in error.response["Error"]["Message"], error


def post_form(bucket, fields, body=b"file"):
    line = "--form\r\nContent-Disposition: form-data; name="
    parts = [f'{line}"{name}"\r\n\r\n{value}\r\n' for name, value in fields.items()]
    head = "".join([*parts, f'{line}"file"; filename="x"\r\n\r\n']).encode()
    data = head + body + b"\r\n--form--\r\n"
    kind = {"Content-Type": "multipart/form-data; boundary=form"}
    return send("POST", f"{os.environ['S3_ENDPOINT']}/{bucket}", data, kind)


def form_of(bucket, key="k", signature_version="s3v4", **fields):
    """The fields of a form that is signed for them."""
    conditions = [{name: value} for name, value in fields.items()]
    signing = client(signature_version=signature_version)
    return signing.generate_presigned_post(bucket, key, Fields=fields, Conditions=conditions)["fields"]


def test_forms(bucket):
    def form(*of, **fields):
        return form_of(bucket, *of, **fields)

    assert post_form(bucket, form()).status == 204 and body_of(bucket, "k") == b"file"
    assert post_form(bucket, form("old", signature_version="s3")).status == 403, "a signature of version 2"
    assert post_form(bucket, form("sealed", **{"x-amz-server-side-encryption": "AES256"})).status == 501
    assert post_form(bucket, form("${filename}")).status == 501
    assert post_form(bucket, {**form("other"), "key": "k2"}).status in (400, 403)
    keys = [o["Key"] for o in S3.list_objects_v2(Bucket=bucket)["Contents"]]
    assert keys == ["k"], keys


def test_a_form_s_checksum_is_compared(bucket):
    right = {"x-amz-checksum-sha256": base64.b64encode(hashlib.sha256(b"file").digest()).decode()}
    wrong = {"x-amz-checksum-sha256": base64.b64encode(bytes(32)).decode()}
    refused = post_form(bucket, form_of(bucket, **wrong))
    assert refused.status == 400 and b"<Code>BadDigest</Code>" in refused.read()
    assert post_form(bucket, form_of(bucket, **{"x-amz-sdk-checksum-algorithm": "SHA512"})).status == 501
    assert code_of(S3.head_object, Bucket=bucket, Key="k")[1] == 404
    assert post_form(bucket, form_of(bucket, **right)).status == 204
    head = S3.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert head["ChecksumSHA256"] == right["x-amz-checksum-sha256"], head


def test_a_form_is_told_where_its_object_is(bucket):
    location = f"{os.environ['S3_ENDPOINT']}/{bucket}"
    answer = post_form(bucket, form_of(bucket, "dir/k +"))
    assert answer.headers["Location"] == f"{location}/dir/k%20%2B", answer.headers
    assert answer.headers["ETag"] == S3.head_object(Bucket=bucket, Key="dir/k +")["ETag"], answer.headers
    assert post_form(bucket, form_of(bucket, "empty"), b"").status == 204 and body_of(bucket, "empty") == b""
    # Where the browser is sent, nobody may read without a signature.
    sent = post_form(bucket, form_of(bucket, "k", success_action_redirect=f"{location}/done"))
    assert sent.status == 403 and sent.geturl().startswith(f"{location}/done?bucket={bucket}&key=k"), sent.geturl()
    assert body_of(bucket, "k") == b"file"


def test_what_is_not_here_is_refused(bucket):
    key = base64.b64encode(bytes(32)).decode()
    refused = code_of(S3.put_object, Bucket=bucket, Key="k", Body=b"x", SSECustomerAlgorithm="AES256", SSECustomerKey=key)
    assert refused == ("NotImplemented", 501)
    kms = code_of(S3.put_object, Bucket=bucket, Key="k", Body=b"x", ServerSideEncryption="aws:kms", SSEKMSKeyId="x")
    assert kms == ("NotImplemented", 501)
    assert code_of(S3.get_bucket_lifecycle_configuration, Bucket=bucket)[1] == 501


def test_conditions_on_dates_of_other_forms(bucket):
    S3.put_object(Bucket=bucket, Key="k", Body=b"x")
    when = S3.head_object(Bucket=bucket, Key="k")["LastModified"]
    old_forms = [when.strftime("%A, %d-%b-%y %H:%M:%S GMT"), when.strftime("%a %b ") + f"{when.day:2}" + when.strftime(" %H:%M:%S %Y")]
    for method in ("GET", "HEAD"):
        ask = lambda **headers: signed(method, f"/{bucket}/k", {k.replace("_", "-"): v for k, v in headers.items()})[0]
        for form in old_forms:
            assert ask(If_Modified_Since=form) == 304, form
            assert ask(If_Unmodified_Since=form) == 200, form
        for old in ("Thursday, 01-Jan-15 00:00:00 GMT", "Thu Jan  1 00:00:00 2015"):
            assert ask(If_Unmodified_Since=old) == 412, old
        for none in ("garbage", "0", f"{old_forms[0]}, {old_forms[0]}"):
            assert ask(If_Modified_Since=none) == 200, none
            assert ask(If_Unmodified_Since=none) == 200, none
    url = f"/{bucket}/copied"
    copy = lambda name, date: signed("PUT", url, {"x-amz-copy-source": f"/{bucket}/k", f"x-amz-copy-source-{name}": date})[0]
    assert copy("if-modified-since", "garbage") == 200
    assert copy("if-modified-since", old_forms[1]) == 412
    assert copy("if-unmodified-since", "Thursday, 01-Jan-15 00:00:00 GMT") == 412
    # Whoever has to sign has to sign all the same, and a call is what its URL says.
    odd = {"If-Modified-Since": "garbage"}
    assert fetch("GET", f"{os.environ['S3_ENDPOINT']}/{bucket}/k", headers=odd)[0] == 403
    assert signed("PUT", f"/{bucket}/k?renameObject", odd)[0] == 501
    assert body_of(bucket, "k") == b"x"


def test_expires_is_given_back_as_it_was_written(bucket):
    date = "Sun, 06 Nov 1994 08:49:37 GMT"
    large = os.urandom(MIB)
    for expires in ("0", "never", "Sun Nov  6 08:49:37 1994", date):
        told = lambda key: [signed(method, f"/{bucket}/{key}")[1]["Expires"] for method in ("GET", "HEAD")]
        headers = {"Expires": expires, "x-amz-meta-a": "b"}
        assert signed("PUT", f"/{bucket}/k", headers, large)[0] == 200, expires
        got = S3.get_object(Bucket=bucket, Key="k")
        assert (got["Body"].read(), got["Metadata"]) == (large, {"a": "b"})
        assert told("k") == [expires] * 2
        source = {"x-amz-copy-source": f"/{bucket}/k"}
        assert signed("PUT", f"/{bucket}/copied", source)[0] == 200
        assert told("copied") == [expires] * 2
        replaced = {**source, "x-amz-metadata-directive": "REPLACE", "Expires": "-1"}
        assert signed("PUT", f"/{bucket}/copied", replaced)[0] == 200
        assert told("copied") == ["-1"] * 2
        status, _, answer = signed("POST", f"/{bucket}/parts?uploads", {"Expires": expires})
        begun = re.search(b"<UploadId>(.*)</UploadId>", answer)[1].decode()
        etag = signed("PUT", f"/{bucket}/parts?partNumber=1&uploadId={begun}", data=b"x")[1]["ETag"]
        done = {"Parts": [{"PartNumber": 1, "ETag": etag}]}
        S3.complete_multipart_upload(Bucket=bucket, Key="parts", UploadId=begun, MultipartUpload=done)
        assert told("parts") == [expires] * 2
    asked = urllib.parse.quote(date)
    assert signed("GET", f"/{bucket}/copied?response-expires={asked}")[1]["Expires"] == date
    # What comes behind a body is compared all the same.
    for told, expected in ((b"body", (200, None)), (b"other", (400, "BadDigest"))):
        trailer = f"x-amz-checksum-crc32:{crc32(told)}\r\n".encode()
        assert put_in_chunks(bucket, "chunks", [b"body"], 4, trailer, expires="0") == expected, told


def test_no_object_has_tags(bucket):
    S3.put_object(Bucket=bucket, Key="k", Body=b"x")
    assert S3.get_object_tagging(Bucket=bucket, Key="k")["TagSet"] == []
    assert code_of(S3.get_object_tagging, Bucket=bucket, Key="missing") == ("NoSuchKey", 404)
    assert code_of(S3.get_object_tagging, Bucket=f"{bucket}-none", Key="k") == ("NoSuchBucket", 404)
    tags = {"TagSet": [{"Key": "a", "Value": "b"}]}
    assert code_of(S3.put_object_tagging, Bucket=bucket, Key="k", Tagging=tags) == ("NotImplemented", 501)


def test_buckets_of_another_owner_are_not_here(bucket):
    S3.put_object(Bucket=bucket, Key="k", Body=b"x", ExpectedBucketOwner="fanfold")
    denied = ("AccessDenied", 403)
    other = {"Bucket": bucket, "ExpectedBucketOwner": "111122223333"}
    assert code_of(S3.get_object, **other, Key="k") == denied
    assert code_of(S3.put_object, **other, Key="k", Body=b"y") == denied
    assert code_of(S3.delete_objects, **other, Delete={"Objects": [{"Key": "k"}]}) == denied
    source = {"Bucket": bucket, "Key": "k"}
    copy = {"Bucket": bucket, "Key": "copied", "CopySource": source}
    assert code_of(S3.copy_object, **copy, ExpectedSourceBucketOwner="111122223333") == denied
    S3.copy_object(**copy, ExpectedSourceBucketOwner="fanfold")
    assert body_of(bucket, "k") == b"x"


def asking(query):
    """A client whose puts carry a query, as those of a newer boto3 may."""
    other = client()
    add = lambda request, **_: setattr(request, "url", f"{request.url}?{query}")
    other.meta.events.register("before-sign.s3.PutObject", add)
    return other


def test_what_only_looks_like_a_put_changes_nothing(bucket):
    S3.put_object(Bucket=bucket, Key="k", Body=b"kept")
    for query, refused in [
        ("renameObject", ("NotImplemented", 501)), ("unheardOf=", ("NotImplemented", 501)),
        ("partNumber=1", ("InvalidArgument", 400)), ("uploadId=a", ("InvalidArgument", 400)),
        ("x-amz-acl=public-read", ("NotImplemented", 501)), ("x-amz-meta-a=b", ("NotImplemented", 501)),
        (f"x-amz-copy-source=%2F{bucket}%2Fk", ("NotImplemented", 501)),
    ]:
        found = code_of(asking(query).put_object, Bucket=bucket, Key="k", Body=b"x")
        assert found == refused, (query, found)
    assert body_of(bucket, "k") == b"kept"
    asking("x-id=PutObject").put_object(Bucket=bucket, Key="k", Body=b"new")
    assert body_of(bucket, "k") == b"new"


def all_tests():
    """Every test, in the order of this file. Of two with one name Python keeps the second: the first would never run."""
    with open(__file__, encoding="utf-8") as source:
        names = [item.name for item in ast.parse(source.read()).body if isinstance(item, ast.FunctionDef)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        sys.exit(f"expected a name of its own for each function, found twice: {', '.join(twice)}; rename one")
    return [(name, globals()[name]) for name in names if name.startswith("test_")]


def main():
    failed = 0
    tests = all_tests()
    for number, (name, test) in enumerate(tests):
        bucket = f"boto-{number}"
        S3.create_bucket(Bucket=bucket)
        try:
            test(bucket)
            print(f"pass: {name}")
        except Exception:
            failed += 1
            print(f"FAIL: {name}\n{traceback.format_exc()}")
    print(f"{len(tests) - failed} of {len(tests)} passed")
    sys.exit(1 if failed else 0)


main()
