//! Thin wrappers over `ring`: hashes, Ed25519, HKDF, AEAD, randomness. Owns every primitive that
//! Collegium uses and holds no protocol. Types that carry a secret have no `Debug`, `Display` or
//! `Serialize`, and are wiped when dropped.

use std::{fmt, fs, io, path::Path, str::FromStr};

use ring::{
    aead, digest, hkdf,
    rand::{SecureRandom, SystemRandom},
    signature::{self, Ed25519KeyPair, KeyPair},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// What can go wrong below the protocol.
#[derive(Debug, Error)]
pub enum CryptoError {
    #[error("{what}: expected {expected} bytes written as hexadecimal")]
    Hex { what: &'static str, expected: usize },
    #[error("the signature does not verify")]
    BadSignature,
    #[error("sealed data does not open: wrong key, or the bytes were changed")]
    BadSeal,
    #[error("{0} is not an Ed25519 private key in PKCS#8")]
    BadKey(String),
    #[error("the operating system gave no randomness")]
    NoRandomness,
    #[error(
        "{path} can be read by others (mode {mode:o}); run: chmod 600 {path}, and replace the secret if anyone else could read it"
    )]
    Exposed { path: String, mode: u32 },
    #[error(
        "the service manager handed over no credential {0}; name it in a LoadCredential= of the unit (systemctl edit), or name a file instead"
    )]
    NoCredential(String),
    #[error("{path}: {source}")]
    Io { path: String, source: io::Error },
}

/// Fixed-size public bytes: hexadecimal where people read, raw bytes on the wire.
macro_rules! hex_bytes {
    ($(#[$doc:meta])* $name:ident, $len:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// The raw bytes.
            pub fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }
        impl FromStr for $name {
            type Err = CryptoError;
            fn from_str(text: &str) -> Result<Self, CryptoError> {
                let mut bytes = [0; $len];
                hex::decode_to_slice(text.trim(), &mut bytes)
                    .map_err(|_| CryptoError::Hex { what: $what, expected: $len })?;
                Ok(Self(bytes))
            }
        }
        impl TryFrom<&[u8]> for $name {
            type Error = CryptoError;
            fn try_from(bytes: &[u8]) -> Result<Self, CryptoError> {
                bytes
                    .try_into()
                    .map(Self)
                    .map_err(|_| CryptoError::Hex { what: $what, expected: $len })
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.serialize_str(&hex::encode(self.0))
                } else {
                    serializer.serialize_bytes(&self.0)
                }
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
                } else {
                    let bytes = <Vec<u8>>::deserialize(deserializer)?;
                    Self::try_from(bytes.as_slice()).map_err(de::Error::custom)
                }
            }
        }
    };
}

hex_bytes!(
    /// A SHA-256 digest (FIPS 180-4).
    Digest, 32, "SHA-256 digest"
);
hex_bytes!(
    /// An Ed25519 public key (RFC 8032).
    VerifyingKey, 32, "Ed25519 public key"
);
hex_bytes!(
    /// An Ed25519 signature (RFC 8032).
    Signature, 64, "Ed25519 signature"
);
hex_bytes!(
    /// An X25519 public key (RFC 7748).
    AgreementKey, 32, "X25519 public key"
);

impl Digest {
    /// SHA-256 of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new();
        hasher.update(bytes);
        hasher.finish()
    }

    /// SHA-256 over a domain label and length-prefixed parts, so that no two different lists of
    /// parts give the same input.
    pub fn of_parts(domain: &str, parts: &[&[u8]]) -> Self {
        let mut hasher = Hasher::new();
        for part in std::iter::once(domain.as_bytes()).chain(parts.iter().copied()) {
            hasher.update(&(part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        hasher.finish()
    }

    /// The first eight hexadecimal digits, for people.
    pub fn short(&self) -> String {
        hex::encode(&self.0[..4])
    }
}

/// SHA-256 over data that arrives in pieces.
pub struct Hasher(digest::Context);

impl Hasher {
    pub fn new() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }

    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub fn finish(self) -> Digest {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.0.finish().as_ref());
        Digest(bytes)
    }
}

impl Default for Hasher {
    fn default() -> Self {
        Self::new()
    }
}

impl VerifyingKey {
    /// Checks an Ed25519 signature over `message`.
    pub fn verify(&self, message: &[u8], signature: &Signature) -> Result<(), CryptoError> {
        signature::UnparsedPublicKey::new(&signature::ED25519, &self.0)
            .verify(message, &signature.0)
            .map_err(|_| CryptoError::BadSignature)
    }

    /// What people compare out of band: SHA-256 of the key.
    pub fn fingerprint(&self) -> Digest {
        Digest::of_parts("collegium/v1/key-fingerprint", &[&self.0])
    }
}

/// An Ed25519 private key.
pub struct SigningKey(Ed25519KeyPair);

impl SigningKey {
    /// A fresh key as PKCS#8, to be stored by the caller.
    pub fn generate_pkcs8() -> Result<Secret<Vec<u8>>, CryptoError> {
        Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
            .map(|document| Secret::new(document.as_ref().to_vec()))
            .map_err(|_| CryptoError::NoRandomness)
    }

    pub fn from_pkcs8(bytes: &[u8]) -> Result<Self, CryptoError> {
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(bytes)
            .map(Self)
            .map_err(|_| CryptoError::BadKey("the key".into()))
    }

    /// Makes a key and writes it to `path` (mode 0600); refuses to overwrite.
    pub fn create(path: &Path) -> Result<Self, CryptoError> {
        let pkcs8 = Self::generate_pkcs8()?;
        write_secret(path, pkcs8.expose())?;
        Self::from_pkcs8(pkcs8.expose())
    }

    /// Reads a key from `path`; refuses a file that others can read.
    pub fn load(path: &Path) -> Result<Self, CryptoError> {
        let bytes = read_secret(path)?;
        Self::from_pkcs8(bytes.expose())
            .map_err(|_| CryptoError::BadKey(path.display().to_string()))
    }

    pub fn verifying_key(&self) -> VerifyingKey {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.0.public_key().as_ref());
        VerifyingKey(bytes)
    }

    pub fn sign(&self, message: &[u8]) -> Signature {
        let mut bytes = [0; 64];
        bytes.copy_from_slice(self.0.sign(message).as_ref());
        Signature(bytes)
    }
}

/// A secret that is wiped when dropped and cannot be printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret<T: Zeroize>(T);

/// A 256-bit symmetric secret.
pub type Key = Secret<[u8; 32]>;

impl<T: Zeroize> Secret<T> {
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// The one door to the bytes: grep for it.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl Secret<[u8; 32]> {
    /// 32 bytes from the operating system.
    pub fn random() -> Result<Self, CryptoError> {
        random::<32>().map(Self)
    }
}

/// `N` bytes from the operating system's generator.
pub fn random<const N: usize>() -> Result<[u8; N], CryptoError> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| CryptoError::NoRandomness)?;
    Ok(bytes)
}

struct OutputLength(usize);

impl hkdf::KeyType for OutputLength {
    fn len(&self) -> usize {
        self.0
    }
}

/// HKDF-SHA256 (RFC 5869): `N` bytes from `key`, bound to a label and length-prefixed context.
/// `N` is at most 8,160.
#[expect(clippy::expect_used, reason = "N is a compile-time constant far below 255 blocks")]
pub fn derive<const N: usize>(key: &[u8], label: &str, context: &[&[u8]]) -> Secret<[u8; N]> {
    let info = Digest::of_parts(label, context);
    let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"collegium/v1");
    let mut out = [0; N];
    salt.extract(key)
        .expand(&[info.as_bytes()], OutputLength(N))
        .and_then(|okm| okm.fill(&mut out))
        .expect("N is within RFC 5869's limit");
    Secret(out)
}

/// Bytes that sealing adds: a 16-byte tag.
pub const SEAL_OVERHEAD: usize = 16;

/// AES-256-GCM (NIST SP 800-38D). The caller never uses one (key, nonce) for two messages.
pub fn seal(
    key: &Key,
    nonce: [u8; 12],
    aad: &[u8],
    plaintext: &[u8],
) -> Result<Vec<u8>, CryptoError> {
    let mut buffer = Vec::with_capacity(plaintext.len() + SEAL_OVERHEAD);
    buffer.extend_from_slice(plaintext);
    seal_in_place(key, nonce, aad, &mut buffer)?;
    Ok(buffer)
}

/// As [`seal`], but what is sealed takes the place of the plaintext.
pub fn seal_in_place(
    key: &Key,
    nonce: [u8; 12],
    aad: &[u8],
    buffer: &mut Vec<u8>,
) -> Result<(), CryptoError> {
    let (nonce, aad) = (aead::Nonce::assume_unique_for_key(nonce), aead::Aad::from(aad));
    let sealed = aead_key(key)?.seal_in_place_append_tag(nonce, aad, buffer);
    sealed.map_err(|_| CryptoError::BadSeal)
}

/// Opens what [`seal`] made with the same key, nonce and associated data.
pub fn open(
    key: &Key,
    nonce: [u8; 12],
    aad: &[u8],
    sealed: &[u8],
) -> Result<Secret<Vec<u8>>, CryptoError> {
    let mut buffer = Secret::new(sealed.to_vec());
    let length = open_in_place(key, nonce, aad, &mut buffer.0)?.len();
    buffer.0.truncate(length);
    Ok(buffer)
}

/// As [`open`], but the plaintext takes the place of what was sealed. After an error the buffer is
/// worth nothing.
pub fn open_in_place<'a>(
    key: &Key,
    nonce: [u8; 12],
    aad: &[u8],
    buffer: &'a mut [u8],
) -> Result<&'a [u8], CryptoError> {
    let (nonce, aad) = (aead::Nonce::assume_unique_for_key(nonce), aead::Aad::from(aad));
    let opened = aead_key(key)?.open_in_place(nonce, aad, buffer);
    opened.map(|plain| &*plain).map_err(|_| CryptoError::BadSeal)
}

fn aead_key(key: &Key) -> Result<aead::LessSafeKey, CryptoError> {
    aead::UnboundKey::new(&aead::AES_256_GCM, key.expose())
        .map(aead::LessSafeKey::new)
        .map_err(|_| CryptoError::BadSeal)
}

/// Writes a new file with mode 0600 and fsyncs it; refuses to overwrite.
pub fn write_secret(path: &Path, bytes: &[u8]) -> Result<(), CryptoError> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let write = || -> io::Result<()> {
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|source| CryptoError::Io { path: path.display().to_string(), source })
}

/// Reads a secret file of at most 64 KiB; refuses one that group or others can read.
pub fn read_secret(path: &Path) -> Result<Secret<Vec<u8>>, CryptoError> {
    use std::{io::Read, os::unix::fs::PermissionsExt};
    let io_error = |source| CryptoError::Io { path: path.display().to_string(), source };
    let file = fs::File::open(path).map_err(io_error)?;
    let mode = file.metadata().map_err(io_error)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(CryptoError::Exposed { path: path.display().to_string(), mode });
    }
    let mut bytes = Vec::new();
    file.take(65_536).read_to_end(&mut bytes).map_err(io_error)?;
    Ok(Secret(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hkdf_binds_label_and_context() {
        let a = derive::<32>(b"key", "a", &[b"x", b"y"]);
        assert!(a.expose() == derive::<32>(b"key", "a", &[b"x", b"y"]).expose());
        assert!(a.expose() != derive::<32>(b"key", "a", &[b"xy", b""]).expose());
        assert!(a.expose() != derive::<32>(b"key", "b", &[b"x", b"y"]).expose());
    }

    #[test]
    fn seal_opens_only_unchanged() {
        let key = Key::random().unwrap();
        let mut sealed = seal(&key, [1; 12], b"aad", b"text").unwrap();
        assert_eq!(open(&key, [1; 12], b"aad", &sealed).unwrap().expose(), b"text");
        assert!(open(&key, [1; 12], b"other", &sealed).is_err());
        assert!(open(&key, [2; 12], b"aad", &sealed).is_err());
        sealed[0] ^= 1;
        assert!(open(&key, [1; 12], b"aad", &sealed).is_err());
    }

    #[test]
    fn secret_file_must_be_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k");
        write_secret(&path, b"s").unwrap();
        assert_eq!(read_secret(&path).unwrap().expose(), b"s");
        assert!(write_secret(&path, b"t").is_err(), "never overwrites");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(read_secret(&path), Err(CryptoError::Exposed { .. })));
    }

    #[test]
    fn digests_travel_as_hex_and_as_bytes() {
        let digest = Digest::of(b"abc");
        assert_eq!(
            serde_json::to_string(&digest).unwrap(),
            "\"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\""
        );
        let bytes = postcard::to_allocvec(&digest).unwrap();
        assert_eq!(postcard::from_bytes::<Digest>(&bytes).unwrap(), digest);
    }
}
