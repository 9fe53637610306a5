//! Tensors in blobs of any length, written and read in runs of values: never a whole file in memory.
//! The bytes are those that the whole-file forms of the parent module give.

use std::{collections::BTreeMap, fs::File, os::unix::fs::FileExt};

use safetensors::{
    Dtype, SafeTensorError,
    tensor::{Metadata, TensorInfo},
};

use super::BadTensors;
use crate::{
    architecture::{Layout, Sums},
    blobs::Blobs,
    crypto::Digest,
};

/// Values that are handled at once: at most 512 KiB.
pub const RUN: usize = 1 << 16;
/// The longest header that is read, in bytes: hundreds of tensors with long names.
const MAX_HEADER: u64 = 1 << 20;
/// What stands before the header: its length.
const PREFIX: u64 = 8;

/// A number in a file: F32 in models, F64 in sums.
pub trait Element: Copy + Default {
    /// Its safetensors type.
    const TYPE: Dtype;
    /// Bytes of one, little-endian.
    type Bytes: AsRef<[u8]>;
    fn to_bytes(self) -> Self::Bytes;
    /// Fills `values` from as many times the bytes of one.
    fn read_all(bytes: &[u8], values: &mut [Self]);
    fn is_finite(self) -> bool;
}

impl Element for f32 {
    const TYPE: Dtype = Dtype::F32;
    type Bytes = [u8; 4];
    fn to_bytes(self) -> [u8; 4] {
        self.to_le_bytes()
    }
    fn read_all(bytes: &[u8], values: &mut [Self]) {
        let each = bytes.as_chunks::<4>().0.iter().map(|bytes| Self::from_le_bytes(*bytes));
        values.iter_mut().zip(each).for_each(|(value, read)| *value = read);
    }
    fn is_finite(self) -> bool {
        Self::is_finite(self)
    }
}

impl Element for f64 {
    const TYPE: Dtype = Dtype::F64;
    type Bytes = [u8; 8];
    fn to_bytes(self) -> [u8; 8] {
        self.to_le_bytes()
    }
    fn read_all(bytes: &[u8], values: &mut [Self]) {
        let each = bytes.as_chunks::<8>().0.iter().map(|bytes| Self::from_le_bytes(*bytes));
        values.iter_mut().zip(each).for_each(|(value, read)| *value = read);
    }
    fn is_finite(self) -> bool {
        Self::is_finite(self)
    }
}

/// Writes `(name, length)` tensors of one type as a blob. `fill` is asked for every value once, in
/// runs of at most [`RUN`]: it is given a tensor's name, the index of the run's first value in it,
/// and where the values go.
pub fn store<'a, T: Element, E: From<BadTensors>>(
    blobs: &Blobs,
    tensors: impl IntoIterator<Item = (&'a str, usize)>,
    mut fill: impl FnMut(&str, usize, &mut [T]) -> Result<(), E>,
) -> Result<Digest, E> {
    let mut tensors: Vec<(&str, usize)> = tensors.into_iter().collect();
    tensors.sort_unstable();
    let (header, length) = header(T::TYPE, &tensors)?;
    let mut writer = blobs.writer(length).map_err(BadTensors::from)?;
    writer.append(&header).map_err(BadTensors::from)?;
    let longest = tensors.iter().map(|(_, len)| *len).max().unwrap_or(0).min(RUN);
    let mut values = vec![T::default(); longest];
    let mut bytes = Vec::with_capacity(longest * (T::TYPE.bitsize() / 8));
    for (name, len) in tensors {
        for first in (0..len).step_by(RUN) {
            let run = &mut values[..RUN.min(len - first)];
            fill(name, first, run)?;
            if !run.iter().all(|value| value.is_finite()) {
                return Err(BadTensors::NotFinite(name.to_owned()).into());
            }
            bytes.clear();
            run.iter().for_each(|value| bytes.extend_from_slice(value.to_bytes().as_ref()));
            writer.append(&bytes).map_err(BadTensors::from)?;
        }
    }
    Ok(writer.finish(None).map_err(BadTensors::from)?)
}

/// The length prefix and the header of tensors in this order, and the length of the whole file.
fn header(dtype: Dtype, tensors: &[(&str, usize)]) -> Result<(Vec<u8>, u64), BadTensors> {
    let mut end = 0;
    let mut infos = Vec::with_capacity(tensors.len());
    for (name, len) in tensors {
        let start = end;
        end += len * (dtype.bitsize() / 8);
        let info = TensorInfo { dtype, shape: vec![*len], data_offsets: (start, end) };
        infos.push(((*name).to_owned(), info));
    }
    let metadata = Metadata::new(None, infos)?;
    let mut json = serde_json::to_vec(&metadata).map_err(SafeTensorError::from)?;
    // The format wants the data aligned.
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.append(&mut json);
    let length = (header.len() + end) as u64;
    Ok((header, length))
}

/// A blob of tensors whose content was checked against its name.
pub struct TensorFile {
    file: File,
    /// Where the data begins, in bytes.
    data: u64,
    tensors: BTreeMap<String, Place>,
}

struct Place {
    dtype: Dtype,
    /// From the start of the data, in bytes.
    start: u64,
    len: usize,
}

impl TensorFile {
    /// Opens a blob of at most `limit` bytes; one pass over it checks its SHA-256.
    pub fn open(blobs: &Blobs, digest: &Digest, limit: u64) -> Result<Self, BadTensors> {
        let (file, length) = blobs.open_checked(digest, limit)?;
        let mut prefix = [0; 8];
        let short = |_| BadTensors::Format(SafeTensorError::HeaderTooSmall);
        file.read_exact_at(&mut prefix, 0).map_err(short)?;
        let header = u64::from_le_bytes(prefix);
        if header > MAX_HEADER {
            return Err(SafeTensorError::HeaderTooLarge.into());
        }
        let mut json = vec![0; usize::try_from(header).unwrap_or(0)];
        let short = |_| BadTensors::Format(SafeTensorError::InvalidHeaderLength);
        file.read_exact_at(&mut json, PREFIX).map_err(short)?;
        let metadata: Metadata =
            serde_json::from_slice(&json).map_err(SafeTensorError::InvalidHeaderDeserialization)?;
        if PREFIX + header + metadata.data_len() as u64 != length {
            return Err(SafeTensorError::MetadataIncompleteBuffer.into());
        }
        let place = |info: &TensorInfo| Place {
            dtype: info.dtype,
            start: info.data_offsets.0 as u64,
            len: info.shape.iter().product(),
        };
        let tensors = metadata.tensors();
        let tensors = tensors.into_iter().map(|(name, info)| (name, place(info))).collect();
        Ok(Self { file, data: PREFIX + header, tensors })
    }

    /// Opens a model that must have exactly the tensors of `layout`.
    pub fn open_model(
        blobs: &Blobs,
        digest: &Digest,
        limit: u64,
        layout: &Layout,
    ) -> Result<Self, BadTensors> {
        let file = Self::open(blobs, digest, limit)?;
        if file.tensors.len() != layout.tensors.len() {
            let (given, expected) = (file.tensors.len(), layout.tensors.len());
            return Err(BadTensors::Count { given, expected });
        }
        for tensor in &layout.tensors {
            let place = file.place::<f32>(&tensor.name)?;
            if place.len != tensor.len as usize {
                let (name, given, expected) = (tensor.name.clone(), place.len, tensor.len as usize);
                return Err(BadTensors::Length { name, given, expected });
            }
        }
        Ok(file)
    }

    /// How many values a tensor has.
    pub fn len_of(&self, name: &str) -> Option<usize> {
        self.tensors.get(name).map(|place| place.len)
    }

    /// Reads the values of a tensor from index `first` on, as many as `values` takes.
    pub fn read<T: Element>(
        &self,
        name: &str,
        first: usize,
        values: &mut [T],
    ) -> Result<(), BadTensors> {
        let place = self.place::<T>(name)?;
        let end = first.saturating_add(values.len());
        if end > place.len {
            return Err(BadTensors::Length {
                name: name.to_owned(),
                given: place.len,
                expected: end,
            });
        }
        let each = T::TYPE.bitsize() / 8;
        let mut bytes = vec![0; values.len() * each];
        let at = self.data + place.start + (first * each) as u64;
        self.file.read_exact_at(&mut bytes, at).map_err(BadTensors::Read)?;
        T::read_all(&bytes, values);
        if values.iter().all(|value| value.is_finite()) {
            Ok(())
        } else {
            Err(BadTensors::NotFinite(name.to_owned()))
        }
    }

    /// Those of the named segments of a sum that it has, whole: for short ones.
    pub fn sums<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Result<Sums, BadTensors> {
        let mut sums = Sums::new();
        for name in names {
            if let Some(len) = self.len_of(name) {
                let mut values = vec![0.0; len];
                self.read(name, 0, &mut values)?;
                sums.insert(name.to_owned(), values);
            }
        }
        Ok(sums)
    }

    fn place<T: Element>(&self, name: &str) -> Result<&Place, BadTensors> {
        let place = self.tensors.get(name);
        let place = place.ok_or_else(|| BadTensors::Missing(name.to_owned()))?;
        if place.dtype == T::TYPE {
            Ok(place)
        } else {
            let (name, given, expected) = (name.to_owned(), place.dtype, T::TYPE);
            Err(BadTensors::Type { name, given, expected })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        architecture::layout,
        tensors::{write_model, write_sums},
    };

    fn blobs() -> (tempfile::TempDir, Blobs) {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path()).unwrap();
        (dir, blobs)
    }

    /// Several runs, one run, one value and none.
    fn long_sums() -> Sums {
        let values = |len: u32| (0..len).map(|i| f64::from(i) / 8.0 - 100.0).collect::<Vec<_>>();
        let lengths = [("move", 2 * 65_536 + 3), ("eval_n", 1), ("items", 0), ("base", 65_536)];
        lengths.map(|(name, len)| (name.to_owned(), values(len))).into()
    }

    fn store_sums(blobs: &Blobs, sums: &Sums) -> Result<Digest, BadTensors> {
        let tensors = sums.iter().rev().map(|(name, values)| (name.as_str(), values.len()));
        store(blobs, tensors, |name, first, run: &mut [f64]| {
            run.copy_from_slice(&sums[name][first..first + run.len()]);
            Ok(())
        })
    }

    #[test]
    fn written_in_runs_a_file_is_what_the_crate_writes_at_once() {
        let (_dir, blobs) = blobs();
        for sums in [long_sums(), Sums::from([("n".into(), vec![3.0])]), Sums::new()] {
            let expected = write_sums(&sums).unwrap();
            let digest = store_sums(&blobs, &sums).unwrap();
            assert!(blobs.read(&digest, 1 << 30).unwrap() == expected);
        }
        let layout = layout(&["a".into(), "b".into()]);
        let weights: Vec<f32> = (0..23_u8).map(f32::from).collect();
        let mut starts = BTreeMap::new();
        let mut start = 0;
        for tensor in &layout.tensors {
            starts.insert(tensor.name.as_str(), start);
            start += tensor.len as usize;
        }
        let tensors = layout.tensors.iter().map(|t| (t.name.as_str(), t.len as usize));
        let digest = store(&blobs, tensors, |name, first, run: &mut [f32]| {
            let from = starts[name] + first;
            run.copy_from_slice(&weights[from..from + run.len()]);
            Ok::<(), BadTensors>(())
        });
        let expected = write_model(&layout, &weights).unwrap();
        assert_eq!(digest.unwrap(), Digest::of(&expected));
    }

    #[test]
    fn any_run_is_read_and_nothing_beyond_a_tensor() {
        let (_dir, blobs) = blobs();
        let sums = long_sums();
        let digest = blobs.put(&write_sums(&sums).unwrap()).unwrap();
        let file = TensorFile::open(&blobs, &digest, 1 << 30).unwrap();
        assert_eq!(file.sums(sums.keys().map(String::as_str)).unwrap(), sums);
        assert_eq!(file.sums(["eval_n", "no such"]).unwrap().len(), 1);
        assert_eq!((file.len_of("items"), file.len_of("x")), (Some(0), None));
        for (first, len) in [(0, 1), (65_535, 2), (131_074, 1)] {
            let mut run = vec![0.0; len];
            file.read("move", first, &mut run).unwrap();
            assert_eq!(run, sums["move"][first..first + len]);
        }
        let beyond = file.read("move", 131_074, &mut [0.0; 2]);
        assert!(matches!(beyond, Err(BadTensors::Length { .. })));
        let other = file.read("move", 0, &mut [0.0_f32; 2]);
        assert!(matches!(other, Err(BadTensors::Type { .. })));
    }

    #[test]
    fn nonsense_is_refused() {
        let (_dir, blobs) = blobs();
        let good = write_sums(&long_sums()).unwrap();
        let open = |bytes: &[u8]| TensorFile::open(&blobs, &blobs.put(bytes).unwrap(), 1 << 30);
        assert!(open(&good).is_ok());
        for bad in [&good[..good.len() - 1], &good[..20], &good[..3], b"", &[255; 9]] {
            assert!(matches!(open(bad), Err(BadTensors::Format(_))), "{} bytes", bad.len());
        }
        let small = TensorFile::open(&blobs, &blobs.put(&good).unwrap(), 8);
        assert!(matches!(small, Err(BadTensors::Blob(_))));
        let (two, three) =
            (layout(&["a".into(), "b".into()]), layout(&["a".into(), "b".into(), "c".into()]));
        let model = blobs.put(&write_model(&two, &two.initial()).unwrap()).unwrap();
        let open = |layout| TensorFile::open_model(&blobs, &model, 1 << 20, layout);
        assert!(open(&two).is_ok());
        assert!(matches!(open(&three), Err(BadTensors::Length { .. })));
    }

    #[test]
    fn what_is_not_finite_is_neither_written_nor_read() {
        let (_dir, blobs) = blobs();
        let bad = Sums::from([("n".into(), vec![0.0, f64::NAN])]);
        assert!(matches!(store_sums(&blobs, &bad), Err(BadTensors::NotFinite(_))));
        let digest = blobs.put(&write_sums(&bad).unwrap()).unwrap();
        let file = TensorFile::open(&blobs, &digest, 1 << 20).unwrap();
        assert!(file.read("n", 0, &mut [0.0]).is_ok());
        assert!(matches!(file.read("n", 1, &mut [0.0]), Err(BadTensors::NotFinite(_))));
    }
}
