//! A blob on its way out, piece by piece. A piece is read only when there is room for it, so a slow
//! reader holds one piece and no thread, and one that takes nothing is cut with its connection. Whoever
//! was cut goes on at its offset.

use std::{fs::File, io, os::unix::fs::FileExt, sync::Arc};

use bytes::Bytes;
use collegium_proto::{PORTION, convert::DownloadPiece, v1};
use tokio::sync::mpsc::{self, OwnedPermit};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{
    blocking,
    places::{Place, Places},
};

/// What is read at once, for some messages, in bytes.
const READ: usize = 4 * PORTION;

type Chunk = Result<v1::DownloadChunk, Status>;

/// What a call answers with.
pub(super) type Chunks = ReceiverStream<Chunk>;

/// Sends `file` of `total` bytes from `offset` on, once there is a place for it.
pub(super) fn stream(file: File, offset: u64, total: u64, places: Places) -> Chunks {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let place = places.take(total.saturating_sub(offset)).await;
        send(Arc::new(file), offset, total, sender, place).await;
    });
    ReceiverStream::new(receiver)
}

async fn send(
    file: Arc<File>,
    mut offset: u64,
    total: u64,
    sender: mpsc::Sender<Chunk>,
    moving: Place,
) {
    loop {
        let Some(mut place) = room(&sender).await else { return };
        let file = Arc::clone(&file);
        let read = blocking(move || read(&file, offset, total)).await;
        let data = match read {
            Ok(Ok(data)) => data,
            Ok(Err(error)) => {
                tracing::error!(%error, "blob");
                place.send(Err(Status::internal(
                    "the coordinator cannot read this blob; its operator's log says why",
                )));
                return;
            }
            Err(status) => {
                place.send(Err(status));
                return;
            }
        };
        offset = offset.saturating_add(data.len() as u64);
        moving.moved(data.len());
        let mut data = Bytes::from(data);
        loop {
            let portion = data.split_to(PORTION.min(data.len()));
            place.send(Ok(DownloadPiece { data: portion, total }.into()));
            if data.is_empty() {
                break;
            }
            let Some(next) = room(&sender).await else { return };
            place = next;
        }
        if offset >= total {
            return;
        }
    }
}

/// Room for the next chunk; none if the reader went away.
async fn room(sender: &mpsc::Sender<Chunk>) -> Option<OwnedPermit<Chunk>> {
    sender.clone().reserve_owned().await.ok()
}

/// The bytes from `offset` on, at most [`READ`]; none beyond the end.
fn read(file: &File, offset: u64, total: u64) -> io::Result<Vec<u8>> {
    let left = usize::try_from(total.saturating_sub(offset)).unwrap_or(READ);
    let mut data = vec![0; left.min(READ)];
    file.read_exact_at(&mut data, offset)?;
    Ok(data)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tokio_stream::StreamExt;

    use super::*;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    async fn whole(mut chunks: Chunks) -> (usize, Vec<u8>) {
        let (mut count, mut bytes) = (0, Vec::new());
        while let Some(chunk) = chunks.next().await {
            bytes.extend_from_slice(&chunk.unwrap().data);
            count += 1;
        }
        (count, bytes)
    }

    #[tokio::test]
    async fn a_blob_is_sent_from_any_offset_in_chunks() {
        let bytes: Vec<u8> = (0..READ + PORTION + 5).map(|i| i.to_le_bytes()[1]).collect();
        let total = bytes.len();
        for (offset, chunks) in [(0, 6), (1, 6), (PORTION, 5), (READ + PORTION + 4, 1), (total, 1)]
        {
            let sent = stream(file(&bytes), offset as u64, total as u64, Places::default());
            let (count, sent) = whole(sent).await;
            assert!(count == chunks && sent == bytes[offset..], "from {offset}");
        }
        let (count, sent) = whole(stream(file(b""), 0, 0, Places::default())).await;
        assert!(count == 1 && sent.is_empty(), "an empty blob is one empty chunk");
    }

    #[tokio::test]
    async fn no_more_is_read_than_the_reader_takes() {
        let bytes = vec![1; 5 * READ];
        let file = file(&bytes);
        let shared = file.try_clone().unwrap();
        let mut chunks = stream(file, 0, bytes.len() as u64, Places::default());
        assert!(chunks.next().await.unwrap().is_ok());
        // All but the first piece and the next, which may have been read already, is changed.
        shared.write_all_at(&vec![2; 3 * READ], 2 * READ as u64).unwrap();
        let mut ends = Vec::new();
        while let Some(chunk) = chunks.next().await {
            ends.push(chunk.unwrap().data[PORTION - 1]);
        }
        assert_eq!(ends.len(), 19);
        assert!(ends[7..].iter().all(|end| *end == 2), "{ends:?}");
    }
}
