# SPDX-License-Identifier: Apache-2.0
"""Puts a small CSV table under every key that is given on standard input, a
JSON list, with boto3 as most people use it.

Reads S3_ENDPOINT, S3_BUCKET and the usual AWS_* variables.
"""

import json
import os
import sys

import boto3
from botocore.config import Config

config = Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1})
client = boto3.client("s3", endpoint_url=os.environ["S3_ENDPOINT"], config=config)
for key in json.load(sys.stdin):
    client.put_object(Bucket=os.environ["S3_BUCKET"], Key=key, Body=b"id,name\n1,Ada\n", ContentType="text/csv")
