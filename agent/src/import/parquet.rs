//! Apache Parquet files, through arrow's record batches. Owns the map from the many column types to the
//! few kinds of cell; reads the mapping's columns only.

use std::{
    borrow::Cow,
    fmt,
    fs::File,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use arrow::{
    array::{
        Array, ArrayRef, BooleanArray, Float64Array, Int64Array, ListArray, RecordBatch,
        StringArray, TimestampMicrosecondArray,
    },
    buffer::NullBuffer,
    compute::cast,
    datatypes::{DataType, Field, TimeUnit},
    error::ArrowError,
};
use parquet::{
    arrow::{ProjectionMask, arrow_reader::ParquetRecordBatchReaderBuilder},
    file::metadata::ParquetMetaData,
};

use super::{ImportError, RowSink, cell::Cell, columns};

/// Rows decoded at once.
const BATCH: usize = 8_192;
/// A column of a row group is at most this large once decompressed: 1 GiB.
const MAX_CHUNK: i64 = 1 << 30;

pub(super) fn read(
    path: &Path,
    file: File,
    wanted: &[String],
    sink: &mut RowSink<'_>,
) -> Result<(), ImportError> {
    let malformed =
        |reason: String| ImportError::Malformed { path: path.to_owned(), reason: short(&reason) };
    let builder = guarded(|| ParquetRecordBatchReaderBuilder::try_new(file)).map_err(malformed)?;
    check_sizes(builder.metadata()).map_err(malformed)?;
    let names: Vec<&str> = builder.schema().fields().iter().map(|f| f.name().as_str()).collect();
    let places = columns::locate(path, wanted, &names)?;
    let mask = ProjectionMask::roots(builder.parquet_schema(), places.iter().copied());
    let mut reader = guarded(|| builder.with_projection(mask).with_batch_size(BATCH).build())
        .map_err(malformed)?;
    while let Some(batch) = guarded(|| reader.next().transpose()).map_err(malformed)? {
        let columns = guarded(|| {
            wanted.iter().map(|name| column(&batch, name)).collect::<Result<Vec<_>, _>>()
        })
        .map_err(malformed)?;
        for row in 0..batch.num_rows() {
            let cells: Vec<Cell<'_>> = columns.iter().map(|column| column.cell(row)).collect();
            sink(Ok(&cells))?;
        }
    }
    Ok(())
}

/// Calls into the decoders, which panic on some damaged files. Whatever they were at is given up with the
/// whole import, so nothing is used in a broken state.
fn guarded<T, E: fmt::Display>(call: impl FnOnce() -> Result<T, E>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("the file is damaged: its contents contradict each other".to_owned()),
    }
}

/// A library's message, cut to a length fit for a terminal.
fn short(reason: &str) -> String {
    reason.chars().filter(|c| !c.is_control()).take(300).collect()
}

fn check_sizes(metadata: &ParquetMetaData) -> Result<(), String> {
    let too_large = metadata
        .row_groups()
        .iter()
        .flat_map(|group| group.columns())
        .any(|chunk| !(0..=MAX_CHUNK).contains(&chunk.uncompressed_size()));
    if too_large {
        return Err(
            "a row group holds more than 1 GiB in one column: write smaller row groups".into()
        );
    }
    Ok(())
}

/// A column of one batch: its values after a lossless or declared cast, and where it had none.
struct Column {
    values: Values,
    missing: Option<NullBuffer>,
}

enum Values {
    Text(StringArray),
    Integer(Int64Array),
    Number(Float64Array),
    Boolean(BooleanArray),
    Time(TimestampMicrosecondArray),
    List(ListArray),
    Unsupported,
}

fn column(batch: &RecordBatch, name: &str) -> Result<Column, ArrowError> {
    let array = batch
        .column_by_name(name)
        .ok_or_else(|| ArrowError::SchemaError(format!("column `{name}` is gone")))?;
    Ok(Column { values: values(array)?, missing: array.logical_nulls() })
}

fn values(array: &ArrayRef) -> Result<Values, ArrowError> {
    use DataType as T;
    let kind = match array.data_type() {
        T::Dictionary(_, kind) => kind.as_ref(),
        kind => kind,
    };
    let to = |target: T| cast(array, &target);
    Ok(match kind {
        T::Int8 | T::Int16 | T::Int32 | T::Int64 | T::UInt8 | T::UInt16 | T::UInt32 => {
            Values::Integer(Int64Array::from(to(T::Int64)?.to_data()))
        }
        T::Float16 | T::Float32 | T::Float64 => {
            Values::Number(Float64Array::from(to(T::Float64)?.to_data()))
        }
        T::Boolean => Values::Boolean(BooleanArray::from(to(T::Boolean)?.to_data())),
        T::Timestamp(_, _) | T::Date32 | T::Date64 => {
            let target = T::Timestamp(TimeUnit::Microsecond, None);
            Values::Time(TimestampMicrosecondArray::from(to(target)?.to_data()))
        }
        // 64 bits without a sign and decimals keep all their digits as text.
        T::UInt64
        | T::Decimal32(_, _)
        | T::Decimal64(_, _)
        | T::Decimal128(_, _)
        | T::Decimal256(_, _)
        | T::Utf8
        | T::LargeUtf8
        | T::Utf8View
        | T::Binary
        | T::LargeBinary
        | T::BinaryView
        | T::Null => Values::Text(StringArray::from(to(T::Utf8)?.to_data())),
        T::List(_) | T::LargeList(_) => {
            let target = T::List(Field::new_list_field(T::Utf8, true).into());
            Values::List(ListArray::from(to(target)?.to_data()))
        }
        _ => Values::Unsupported,
    })
}

impl Column {
    fn cell(&self, row: usize) -> Cell<'_> {
        if self.missing.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
            return Cell::Missing;
        }
        match &self.values {
            Values::Text(array) => text(array, row),
            Values::Integer(array) if array.is_valid(row) => Cell::Integer(array.value(row)),
            Values::Number(array) if array.is_valid(row) => Cell::Number(array.value(row)),
            Values::Boolean(array) if array.is_valid(row) => Cell::Boolean(array.value(row)),
            Values::Time(array) if array.is_valid(row) => Cell::Time(array.value(row)),
            Values::List(array) if array.is_valid(row) => {
                let items = array.value(row);
                match items.as_any().downcast_ref::<StringArray>() {
                    Some(items) => Cell::List((0..items.len()).map(|i| owned(items, i)).collect()),
                    None => UNSUPPORTED,
                }
            }
            _ => UNSUPPORTED,
        }
    }
}

/// Also for values that the cast could not hold, such as bytes that are not UTF-8.
const UNSUPPORTED: Cell<'static> = Cell::Unreadable("has a type or value that cannot be read");

fn text(array: &StringArray, row: usize) -> Cell<'_> {
    if array.is_valid(row) { Cell::Text(Cow::Borrowed(array.value(row))) } else { UNSUPPORTED }
}

fn owned(array: &StringArray, row: usize) -> Cell<'static> {
    if array.is_valid(row) {
        Cell::Text(Cow::Owned(array.value(row).to_owned()))
    } else {
        Cell::Missing
    }
}
