// SPDX-License-Identifier: Apache-2.0
//! The S3 protocol's calls, each handed to the function that does it.
//!
//! What is not listed here is answered with `NotImplemented` by s3s.

use s3s::{S3, S3Error, S3Request, S3Response, S3Result, dto, s3_error};

use super::{
    REGION, Service,
    attributes::{disallow_what_is_not_here, put_expires},
    commit::{Change, Condition, Victim},
    detour,
    object::current_version,
};

type Call<T> = S3Result<S3Response<T>>;

fn answer<T>(output: T) -> Call<T> {
    Ok(S3Response::new(output))
}

#[async_trait::async_trait]
impl S3 for Service {
    async fn create_bucket(&self, req: S3Request<dto::CreateBucketInput>) -> Call<dto::CreateBucketOutput> {
        disallow_what_is_not_here(&req.headers)?;
        let bucket = req.input.bucket;
        self.0.committer.commit(Change::CreateBucket { bucket: bucket.clone() }).await?;
        answer(dto::CreateBucketOutput { location: Some(format!("/{bucket}")) })
    }

    async fn delete_bucket(&self, req: S3Request<dto::DeleteBucketInput>) -> Call<dto::DeleteBucketOutput> {
        self.0.committer.commit(Change::DeleteBucket { bucket: req.input.bucket }).await?;
        answer(dto::DeleteBucketOutput {})
    }

    async fn head_bucket(&self, req: S3Request<dto::HeadBucketInput>) -> Call<dto::HeadBucketOutput> {
        self.0.require_bucket(&req.input.bucket)?;
        answer(dto::HeadBucketOutput { bucket_region: Some(REGION.to_owned()), ..Default::default() })
    }

    async fn list_buckets(&self, req: S3Request<dto::ListBucketsInput>) -> Call<dto::ListBucketsOutput> {
        answer(self.0.list_buckets(&req.input)?)
    }

    async fn get_bucket_location(
        &self,
        req: S3Request<dto::GetBucketLocationInput>,
    ) -> Call<dto::GetBucketLocationOutput> {
        self.0.require_bucket(&req.input.bucket)?;
        // An empty constraint is how S3 says us-east-1.
        answer(dto::GetBucketLocationOutput::default())
    }

    async fn get_bucket_versioning(
        &self,
        req: S3Request<dto::GetBucketVersioningInput>,
    ) -> Call<dto::GetBucketVersioningOutput> {
        self.0.require_bucket(&req.input.bucket)?;
        answer(dto::GetBucketVersioningOutput::default())
    }

    async fn list_objects(&self, req: S3Request<dto::ListObjectsInput>) -> Call<dto::ListObjectsOutput> {
        let shared = self.0.clone();
        answer(blocking(move || shared.list_v1(req.input)).await?)
    }

    async fn list_objects_v2(
        &self,
        req: S3Request<dto::ListObjectsV2Input>,
    ) -> Call<dto::ListObjectsV2Output> {
        let shared = self.0.clone();
        answer(blocking(move || shared.list_v2(req.input)).await?)
    }

    async fn put_object(&self, mut req: S3Request<dto::PutObjectInput>) -> Call<dto::PutObjectOutput> {
        let trailers = detour::trailers(&mut req);
        put_expires(&mut req.extensions, &mut req.input.metadata);
        answer(self.0.put(req.input, &req.headers, trailers, "ObjectCreated:Put").await?)
    }

    async fn post_object(&self, req: S3Request<dto::PostObjectInput>) -> Call<dto::PostObjectOutput> {
        self.0.post(req.input, &req.headers).await
    }

    async fn get_object(&self, req: S3Request<dto::GetObjectInput>) -> Call<dto::GetObjectOutput> {
        self.0.get(&req.input, &req.headers)
    }

    async fn head_object(&self, req: S3Request<dto::HeadObjectInput>) -> Call<dto::HeadObjectOutput> {
        self.0.head(&req.input, &req.headers)
    }

    /// There are no tags here; clients ask for them before they copy an object in parts.
    async fn get_object_tagging(
        &self,
        req: S3Request<dto::GetObjectTaggingInput>,
    ) -> Call<dto::GetObjectTaggingOutput> {
        current_version(req.input.version_id.as_deref())?;
        self.0.find(&req.input.bucket, &req.input.key, false)?;
        answer(dto::GetObjectTaggingOutput { tag_set: Vec::new(), version_id: None })
    }

    async fn copy_object(&self, mut req: S3Request<dto::CopyObjectInput>) -> Call<dto::CopyObjectOutput> {
        put_expires(&mut req.extensions, &mut req.input.metadata);
        answer(self.0.copy(req.input, &req.headers).await?)
    }

    async fn delete_object(&self, req: S3Request<dto::DeleteObjectInput>) -> Call<dto::DeleteObjectOutput> {
        let input = req.input;
        current_version(input.version_id.as_deref())?;
        if input.if_match_size.is_some() || input.if_match_last_modified_time.is_some() {
            return Err(only_etags());
        }
        let condition = super::condition::of_write(input.if_match.as_ref(), None)?;
        let victim = Victim { key: input.key, condition };
        match self.0.delete(input.bucket, vec![victim]).await?.pop() {
            Some(Err(code)) => Err(s3s::S3Error::with_message(code, "the object was not deleted")),
            _ => answer(dto::DeleteObjectOutput::default()),
        }
    }

    async fn delete_objects(
        &self,
        req: S3Request<dto::DeleteObjectsInput>,
    ) -> Call<dto::DeleteObjectsOutput> {
        let dto::DeleteObjectsInput { bucket, delete, .. } = req.input;
        if delete.objects.len() > 1_000 {
            return Err(s3_error!(MalformedXML, "at most 1000 keys can be deleted in one request"));
        }
        // s3s reads a key in CDATA as none.
        if delete.objects.iter().any(|o| o.key.is_empty()) {
            return Err(s3_error!(MalformedXML, "each object must have its key, as text with entities"));
        }
        if delete.objects.iter().any(|o| o.size.is_some() || o.last_modified_time.is_some()) {
            return Err(only_etags());
        }
        let quiet = delete.quiet.unwrap_or(false);
        let condition = |etag: Option<dto::ETag>| {
            etag.map_or(Condition::Always, |e| Condition::Match(e.value().to_owned()))
        };
        let (current, of_versions): (Vec<_>, Vec<_>) =
            delete.objects.into_iter().partition(|o| current_version(o.version_id.as_deref()).is_ok());
        let keys: Vec<_> = current.iter().map(|o| o.key.clone()).collect();
        let victims = current.into_iter().map(|o| Victim { key: o.key, condition: condition(o.e_tag) });
        let results = self.0.delete(bucket, victims.collect()).await?;
        let mut deleted = Vec::new();
        let mut errors: Vec<_> = of_versions.into_iter().map(no_such_version).collect();
        for (key, result) in keys.into_iter().zip(results) {
            match result {
                Ok(()) => deleted.push(dto::DeletedObject { key: Some(key), ..Default::default() }),
                Err(code) => errors.push(dto::Error {
                    key: Some(key),
                    code: Some(code.as_str().to_owned()),
                    message: Some("the object was not deleted".to_owned()),
                    ..Default::default()
                }),
            }
        }
        let deleted = Some(deleted).filter(|_| !quiet);
        answer(dto::DeleteObjectsOutput { deleted, errors: Some(errors), ..Default::default() })
    }

    async fn create_multipart_upload(
        &self,
        mut req: S3Request<dto::CreateMultipartUploadInput>,
    ) -> Call<dto::CreateMultipartUploadOutput> {
        put_expires(&mut req.extensions, &mut req.input.metadata);
        answer(self.0.create_upload(req.input, &req.headers).await?)
    }

    async fn upload_part(&self, mut req: S3Request<dto::UploadPartInput>) -> Call<dto::UploadPartOutput> {
        let trailers = detour::trailers(&mut req);
        answer(self.0.put_part(req.input, &req.headers, trailers).await?)
    }

    async fn upload_part_copy(
        &self,
        req: S3Request<dto::UploadPartCopyInput>,
    ) -> Call<dto::UploadPartCopyOutput> {
        answer(self.0.copy_part(req.input, &req.headers).await?)
    }

    async fn complete_multipart_upload(
        &self,
        req: S3Request<dto::CompleteMultipartUploadInput>,
    ) -> Call<dto::CompleteMultipartUploadOutput> {
        answer(self.0.complete(req.input, &req.headers).await?)
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<dto::AbortMultipartUploadInput>,
    ) -> Call<dto::AbortMultipartUploadOutput> {
        self.0.require_bucket(&req.input.bucket)?;
        self.0.abort(req.input.bucket, req.input.key, req.input.upload_id).await?;
        answer(dto::AbortMultipartUploadOutput::default())
    }

    async fn list_parts(&self, req: S3Request<dto::ListPartsInput>) -> Call<dto::ListPartsOutput> {
        answer(self.0.list_parts(req.input)?)
    }

    async fn list_multipart_uploads(
        &self,
        req: S3Request<dto::ListMultipartUploadsInput>,
    ) -> Call<dto::ListMultipartUploadsOutput> {
        answer(self.0.list_uploads(req.input)?)
    }
}

/// S3 has the other conditions for directory buckets only.
fn only_etags() -> S3Error {
    s3_error!(NotImplemented, "a delete takes a condition on the ETag, not on the size or the time")
}

fn no_such_version(object: dto::ObjectIdentifier) -> dto::Error {
    dto::Error {
        key: Some(object.key),
        version_id: object.version_id,
        code: Some("NoSuchVersion".to_owned()),
        message: Some("this server keeps no versions".to_owned()),
    }
}

/// Runs what may take milliseconds away from the threads that serve.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> S3Result<T> + Send + 'static) -> S3Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|e| Err(s3_error!(InternalError, "a listing was stopped: {e}")))
}
