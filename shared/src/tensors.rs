//! Numbers as files: opened sums and models in the safetensors format. A sum holds one F64 tensor
//! for each segment, a model one F32 tensor for each tensor of its layout. Whole files in memory are
//! for small ones; [`TensorFile`] and [`store`] are for any length.

mod file;

use std::{collections::BTreeMap, io};

use safetensors::{Dtype, SafeTensorError, SafeTensors, tensor::TensorView};
use thiserror::Error;

use crate::{
    architecture::{Layout, Sums},
    blobs::BlobError,
};

pub use file::{Element, RUN, TensorFile, store};

/// A file that is not the sum or the model that it should be.
#[derive(Debug, Error)]
pub enum BadTensors {
    #[error("this is not a safetensors file: {0}")]
    Format(#[from] SafeTensorError),
    #[error("tensor {name:?} has type {given:?}, expected {expected:?}")]
    Type { name: String, given: Dtype, expected: Dtype },
    #[error("there is no tensor {0:?}")]
    Missing(String),
    #[error("the model has {given} tensors, its layout has {expected}")]
    Count { given: usize, expected: usize },
    #[error("tensor {name:?} has {given} values, expected {expected}")]
    Length { name: String, given: usize, expected: usize },
    #[error("tensor {0:?} holds a value that is not a finite number")]
    NotFinite(String),
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error("the file could not be read: {0}")]
    Read(#[source] io::Error),
}

/// Writes an opened sum.
pub fn write_sums(sums: &Sums) -> Result<Vec<u8>, BadTensors> {
    let bytes: BTreeMap<&str, Vec<u8>> = sums
        .iter()
        .map(|(name, values)| {
            (name.as_str(), values.iter().flat_map(|v| v.to_le_bytes()).collect())
        })
        .collect();
    let views = bytes
        .iter()
        .map(|(name, bytes)| {
            Ok((*name, TensorView::new(Dtype::F64, vec![bytes.len() / 8], bytes)?))
        })
        .collect::<Result<Vec<_>, SafeTensorError>>()?;
    Ok(safetensors::serialize(views, None)?)
}

/// Reads an opened sum.
pub fn read_sums(file: &[u8]) -> Result<Sums, BadTensors> {
    let tensors = SafeTensors::deserialize(file)?;
    tensors
        .iter()
        .map(|(name, view)| {
            let data = of_type(name, &view, Dtype::F64)?;
            let (values, _) = data.as_chunks::<8>();
            let values: Vec<f64> = values.iter().map(|v| f64::from_le_bytes(*v)).collect();
            if values.iter().all(|v| v.is_finite()) {
                Ok((name.to_owned(), values))
            } else {
                Err(BadTensors::NotFinite(name.to_owned()))
            }
        })
        .collect()
}

/// Writes a model: `weights` are all tensors of `layout`, concatenated.
pub fn write_model(layout: &Layout, weights: &[f32]) -> Result<Vec<u8>, BadTensors> {
    if weights.len() != layout.len() {
        let (given, expected) = (weights.len(), layout.len());
        return Err(BadTensors::Length { name: "all tensors".into(), given, expected });
    }
    let bytes: Vec<u8> = weights.iter().flat_map(|w| w.to_le_bytes()).collect();
    let mut views = Vec::with_capacity(layout.tensors.len());
    let mut rest = bytes.as_slice();
    for tensor in &layout.tensors {
        let len = tensor.len as usize;
        let (own, after) = rest.split_at(4 * len);
        views.push((tensor.name.as_str(), TensorView::new(Dtype::F32, vec![len], own)?));
        rest = after;
    }
    Ok(safetensors::serialize(views, None)?)
}

/// Reads a model that must have exactly the tensors of `layout`; gives them concatenated.
pub fn read_model(file: &[u8], layout: &Layout) -> Result<Vec<f32>, BadTensors> {
    let tensors = SafeTensors::deserialize(file)?;
    if tensors.len() != layout.tensors.len() {
        let (given, expected) = (tensors.len(), layout.tensors.len());
        return Err(BadTensors::Count { given, expected });
    }
    let mut weights = Vec::with_capacity(layout.len());
    for tensor in &layout.tensors {
        let name = &tensor.name;
        let view = tensors.tensor(name).map_err(|_| BadTensors::Missing(name.clone()))?;
        let data = of_type(name, &view, Dtype::F32)?;
        let (values, _) = data.as_chunks::<4>();
        let (given, expected) = (values.len(), tensor.len as usize);
        if given != expected {
            return Err(BadTensors::Length { name: name.clone(), given, expected });
        }
        weights.extend(values.iter().map(|v| f32::from_le_bytes(*v)));
        if !weights.iter().rev().take(expected).all(|w| w.is_finite()) {
            return Err(BadTensors::NotFinite(name.clone()));
        }
    }
    Ok(weights)
}

fn of_type<'a>(name: &str, view: &TensorView<'a>, expected: Dtype) -> Result<&'a [u8], BadTensors> {
    let given = view.dtype();
    if given == expected {
        Ok(view.data())
    } else {
        Err(BadTensors::Type { name: name.to_owned(), given, expected })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::architecture::layout;

    #[test]
    fn sums_survive_and_nonsense_is_refused() {
        let sums = Sums::from([
            ("n".into(), vec![3.0]),
            ("empty".into(), vec![]),
            ("h".into(), vec![0.5, -1.0]),
        ]);
        let file = write_sums(&sums).unwrap();
        assert_eq!(read_sums(&file).unwrap(), sums);
        assert!(read_sums(&file[..file.len() - 1]).is_err());
        let nan = write_sums(&Sums::from([("n".into(), vec![f64::NAN])])).unwrap();
        assert!(matches!(read_sums(&nan), Err(BadTensors::NotFinite(_))));
    }

    #[test]
    fn a_model_fits_its_layout_and_no_other() {
        let (two, three) =
            (layout(&["a".into(), "b".into()]), layout(&["a".into(), "b".into(), "c".into()]));
        let mut weights = two.initial();
        weights[0] = -2.5;
        let file = write_model(&two, &weights).unwrap();
        assert_eq!(read_model(&file, &two).unwrap(), weights);
        assert!(matches!(read_model(&file, &three), Err(BadTensors::Length { .. })));
        assert!(write_model(&three, &weights).is_err());
        weights[1] = f32::INFINITY;
        let file = write_model(&two, &weights).unwrap();
        assert!(matches!(read_model(&file, &two), Err(BadTensors::NotFinite(_))));
    }
}
