//! Records in sled, some in a bucket with others ([`super::packing`]) and the rest under their own keys.
//!
//! A read looks into the bucket first and under the record's own key second: records only ever move that way.

use super::embedded::{decode, encode, engine_error};
use super::packing::{self, BUCKETS, Bucket, Packed, Place};
use super::{Change, EngineError, RECORD_CAP_BYTES, Versioned};
use std::collections::BTreeMap;
use std::ops::Bound;

/// A record with its key.
type Found = (Vec<u8>, Versioned);

/// A record's key, and its version and value as sled keeps them.
type Unpacked<'b> = (Vec<u8>, &'b [u8]);

/// The record of `key`.
pub(super) fn get(db: &sled::Db, packed: &[Packed], key: &[u8]) -> Result<Option<Versioned>, EngineError> {
    if let Some(Place { bucket, tail }) = packing::place(packed, key) {
        let bucket = db.get(bucket).map_err(|error| engine_error("read", error))?;
        if let Some(body) = bucket.as_deref().and_then(|bytes| packing::find(bytes, tail)) {
            return decode("read", body).map(Some);
        }
    }
    db.get(key).map_err(|error| engine_error("read", error))?.map(|bytes| decode("read", &bytes)).transpose()
}

/// Up to `limit` records under `prefix` and above `after`, in order.
pub(super) fn scan(
    db: &sled::Db,
    packed: &[Packed],
    prefix: &[u8],
    after: Option<&[u8]>,
    limit: usize,
) -> Result<Vec<Found>, EngineError> {
    if !packing::concerns(packed, prefix) {
        return single(db, prefix, after, limit);
    }
    let together = in_buckets(db, prefix, after, limit)?;
    let mut found: BTreeMap<Vec<u8>, Versioned> = single(db, prefix, after, limit)?.into_iter().collect();
    if found.is_empty() {
        return Ok(together);
    }
    found.extend(together);
    Ok(found.into_iter().take(limit).collect())
}

/// Those that lie under their own keys.
fn single(
    db: &sled::Db,
    prefix: &[u8],
    after: Option<&[u8]>,
    limit: usize,
) -> Result<Vec<Found>, EngineError> {
    let start = match after {
        Some(after) if after >= prefix => Bound::Excluded(after),
        _ => Bound::Included(prefix),
    };
    let mut found = Vec::new();
    for record in db.range::<&[u8], _>((start, Bound::Unbounded)) {
        let (key, bytes) = record.map_err(|error| engine_error("scan", error))?;
        if found.len() >= limit || !key.starts_with(prefix) {
            break;
        }
        if !key.starts_with(BUCKETS) {
            found.push((key.to_vec(), decode("scan", &bytes)?));
        }
    }
    Ok(found)
}

/// Those that lie in buckets.
fn in_buckets(
    db: &sled::Db,
    prefix: &[u8],
    after: Option<&[u8]>,
    limit: usize,
) -> Result<Vec<Found>, EngineError> {
    let lowest = after.filter(|after| *after >= prefix).unwrap_or(prefix);
    let from = [BUCKETS, lowest].concat();
    // The bucket before may hold keys above the lowest one, for the low bits of its own key are cleared.
    let before = db.get_lt(&from).map_err(|error| engine_error("scan", error))?.map(|(key, _)| key);
    let start = before.filter(|key| key.starts_with(BUCKETS)).unwrap_or_else(|| from.into());
    let mut found = Vec::new();
    for bucket in db.range(start..) {
        let (bucket, bytes) = bucket.map_err(|error| engine_error("scan", error))?;
        if found.len() >= limit || !bucket.starts_with(BUCKETS) {
            break;
        }
        for (key, body) in unpacked(&bucket, &bytes)? {
            if key.starts_with(prefix) && after.is_none_or(|after| key.as_slice() > after) {
                found.push((key, decode("scan", body)?));
            } else if key.as_slice() > prefix && !key.starts_with(prefix) {
                found.truncate(limit);
                return Ok(found);
            }
        }
    }
    found.truncate(limit);
    Ok(found)
}

/// The keys and bodies of what lies under one key of sled: itself, or what is in the bucket.
pub(super) fn unpacked<'b>(key: &[u8], bytes: &'b [u8]) -> Result<Vec<Unpacked<'b>>, EngineError> {
    if !key.starts_with(BUCKETS) {
        return Ok(vec![(key.to_vec(), bytes)]);
    }
    if !packing::is_whole(bytes) {
        let detail = "a bucket of records is damaged".to_owned();
        return Err(EngineError::Corrupt { operation: "unpack", detail });
    }
    Ok(packing::entries(bytes).map(|(tail, body)| (packing::key_of(key, tail), body)).collect())
}

/// All changes, which are sorted by key, as one batch of sled's.
pub(super) fn batch(
    db: &sled::Db,
    packed: &[Packed],
    changes: &[Change],
) -> Result<sled::Batch, EngineError> {
    let mut batch = sled::Batch::default();
    let mut body = Vec::with_capacity(RECORD_CAP_BYTES);
    let mut open: Option<Bucket> = None;
    for change in changes {
        let Some(place) = packing::place(packed, &change.key) else {
            match &change.new {
                Some(new) => batch.insert(change.key.as_slice(), encode(new, &mut body)),
                None => batch.remove(change.key.as_slice()),
            }
            continue;
        };
        let mut bucket = match open.take() {
            Some(bucket) if bucket.key() == place.bucket => bucket,
            other => {
                other.into_iter().for_each(|full| close(&mut batch, &full));
                let bytes = db.get(&place.bucket).map_err(|error| engine_error("read", error))?;
                Bucket::new(place.bucket, bytes.as_deref().unwrap_or_default())
            }
        };
        pack(&mut batch, &mut bucket, place.tail, change, &mut body);
        open = Some(bucket);
    }
    open.into_iter().for_each(|last| close(&mut batch, &last));
    Ok(batch)
}

/// One change to a record that lies in `bucket` or, if it is not there, under its own key.
fn pack(batch: &mut sled::Batch, bucket: &mut Bucket, tail: &[u8], change: &Change, body: &mut Vec<u8>) {
    let inside = bucket.has(tail);
    let Some(new) = &change.new else {
        if inside {
            bucket.remove(tail);
        } else {
            batch.remove(change.key.as_slice());
        }
        return;
    };
    let body = encode(new, body);
    let alone = !inside && change.old.is_some();
    if alone || !bucket.put(tail, &body) {
        batch.insert(change.key.as_slice(), body);
    }
}

fn close(batch: &mut sled::Batch, bucket: &Bucket) {
    if bucket.bytes().is_empty() {
        batch.remove(bucket.key());
    } else {
        batch.insert(bucket.key(), bucket.bytes());
    }
}
