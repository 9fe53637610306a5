//! An HTTP/2 client that keeps to no manners: it sends frames by hand, whole or byte by byte, takes as
//! little of the answers as it likes, and reads or not. Speaks just enough to open gRPC calls; knows
//! nothing of what they mean (RFC 9113, RFC 7541).

use std::{io, sync::Arc, time::Duration};

use anyhow::Context;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split},
    net::TcpStream,
    sync::{Mutex, mpsc},
    task::JoinSet,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Kinds of frames.
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
pub const WINDOW_UPDATE: u8 = 8;
/// Flags.
pub const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// What a client sends first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a peer does with what it is sent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// It stays in the socket.
    Never,
    /// It is read, and pings are answered.
    Answering,
    /// It is read, and pings are not answered.
    Mute,
}

/// A frame that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub length: usize,
}

type Writer = Arc<Mutex<WriteHalf<TlsStream<TcpStream>>>>;

/// One connection.
pub struct RawPeer {
    writer: Writer,
    frames: mpsc::UnboundedReceiver<Frame>,
    /// Kept, so that the connection is not closed by this side.
    unread: Option<ReadHalf<TlsStream<TcpStream>>>,
    /// Ends with this, so that the connection is closed then.
    reading: JoinSet<io::Result<()>>,
}

impl RawPeer {
    /// A TLS connection to the loopback over which nothing is sent yet. `client` is a certificate and
    /// its key, `ca` who vouches for the server, all in PEM.
    pub async fn connect(
        port: u16,
        ca: &str,
        client: (&str, &str),
        reading: Reading,
    ) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.as_bytes())?)?;
        let chain = CertificateDer::pem_slice_iter(client.0.as_bytes());
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_client_auth_cert(
                chain.collect::<Result<_, _>>()?,
                PrivateKeyDer::from_pem_slice(client.1.as_bytes())?,
            )?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("127.0.0.1")?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        let (reader, writer) = split(stream);
        let writer = Arc::new(Mutex::new(writer));
        let (sender, frames) = mpsc::unbounded_channel();
        let mut peer = Self { writer, frames, unread: None, reading: JoinSet::new() };
        if reading == Reading::Never {
            peer.unread = Some(reader);
        } else {
            let answering = (reading == Reading::Answering).then(|| Arc::clone(&peer.writer));
            peer.reading.spawn(read_all(reader, sender, answering));
        }
        Ok(peer)
    }

    /// Sends bytes as they are.
    pub async fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let mut writer = self.writer.lock().await;
        writer.write_all(bytes).await?;
        writer.flush().await
    }

    /// Sends bytes one by one, `pause` apart, for ever or until the connection is cut.
    pub async fn drip(
        &self,
        bytes: impl IntoIterator<Item = u8>,
        pause: Duration,
    ) -> io::Result<()> {
        for byte in bytes {
            self.send(&[byte]).await?;
            tokio::time::sleep(pause).await;
        }
        Ok(())
    }

    /// Says hello, and that `window` bytes of each answer may come before more is allowed.
    pub async fn greet(&self, window: u32) -> io::Result<()> {
        let mut setting = vec![0, 4];
        setting.extend(window.to_be_bytes());
        // The server's settings came with the handshake.
        let settings = [frame(SETTINGS, 0, 0, &setting), frame(SETTINGS, ACK, 0, &[])].concat();
        self.send(&[preface(), settings].concat()).await
    }

    /// Opens a call on `stream` (odd, ascending), whose message is still to come.
    pub async fn open(&self, stream: u32, path: &str) -> io::Result<()> {
        self.send(&frame(HEADERS, END_HEADERS, stream, &headers(path)?)).await
    }

    /// Sends a part of a call's message.
    pub async fn data(&self, stream: u32, part: &[u8], last: bool) -> io::Result<()> {
        self.send(&frame(DATA, if last { END_STREAM } else { 0 }, stream, part)).await
    }

    /// Opens a call with a whole message of less than 256 bytes.
    pub async fn call(&self, stream: u32, path: &str, message: &[u8]) -> io::Result<()> {
        self.open(stream, path).await?;
        let length = u8::try_from(message.len()).map_err(io::Error::other)?;
        self.data(stream, &[&[0, 0, 0, 0, length], message].concat(), true).await
    }

    /// The next frame that arrives; none when the connection is cut.
    pub async fn next(&mut self) -> Option<Frame> {
        self.frames.recv().await
    }

    /// Reads until the connection is cut; what arrived before.
    pub async fn until_cut(&mut self, limit: Duration) -> anyhow::Result<Vec<Frame>> {
        let mut arrived = Vec::new();
        let reading = async {
            while let Some(frame) = self.next().await {
                arrived.push(frame);
            }
        };
        let cut = tokio::time::timeout(limit, reading).await;
        cut.with_context(|| format!("not cut; there came {:?}", arrived.iter().take(9)))?;
        Ok(arrived)
    }
}

async fn read_all(
    mut reader: ReadHalf<TlsStream<TcpStream>>,
    frames: mpsc::UnboundedSender<Frame>,
    answering: Option<Writer>,
) -> io::Result<()> {
    loop {
        let mut head = [0; 9];
        reader.read_exact(&mut head).await?;
        let [a, b, c, kind, flags, s0, s1, s2, s3] = head;
        let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or(usize::MAX);
        let mut payload = vec![0; length];
        reader.read_exact(&mut payload).await?;
        if let Some(writer) = &answering
            && (kind, flags & ACK) == (PING, 0)
        {
            let mut writer = writer.lock().await;
            writer.write_all(&frame(PING, ACK, 0, &payload)).await?;
            writer.flush().await?;
        }
        let stream = u32::from_be_bytes([s0, s1, s2, s3]);
        // Nobody listens any more once the test is over.
        let _ = frames.send(Frame { kind, flags, stream, length });
    }
}

/// The client's connection preface, before its settings.
pub fn preface() -> Vec<u8> {
    PREFACE.to_vec()
}

/// A ping.
pub fn ping() -> Vec<u8> {
    frame(PING, 0, 0, &[7; 8])
}

/// The bytes of a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// The header block of a gRPC call, without a dynamic table.
fn headers(path: &str) -> io::Result<Vec<u8>> {
    let fields = [
        (":path", path),
        (":authority", "127.0.0.1"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    // ":method: POST" and ":scheme: https" of the static table.
    let mut block = vec![0x83, 0x87];
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            // A longer one would need more than one byte.
            let length = u8::try_from(text.len()).ok().filter(|length| *length < 127);
            block.push(length.ok_or_else(|| io::Error::other("too long a header"))?);
            block.extend(text.as_bytes());
        }
    }
    Ok(block)
}
