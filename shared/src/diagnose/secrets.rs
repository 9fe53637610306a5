//! The secrets of an installation, so that they can be looked for in a text before it leaves: each in the
//! forms in which people and programs write bytes. Nothing that is added to an archive should hold one;
//! this is the second look.

use std::{fs, path::Path};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use zeroize::Zeroizing;

use crate::{crypto::read_secret, files::read_bounded};

/// What stands in the place of a secret.
const REDACTED: &str = "[redacted]";
/// Shorter ones would be found everywhere.
const SHORTEST: usize = 4;
/// The most files of a directory of keys.
const MAX_KEYS: usize = 64;
/// The most bytes of a file with a secret.
const MAX_SECRET: u64 = 64 << 10;
/// What stands before the seed of an Ed25519 key in PKCS#8 (RFC 8410, section 7).
const SEED: [u8; 4] = [0x04, 0x22, 0x04, 0x20];

/// Texts that may not leave.
#[derive(Default)]
pub struct Secrets(Vec<Zeroizing<String>>);

impl Secrets {
    /// Adds what is in every file of a directory of keys.
    pub fn key_dir(&mut self, dir: &Path) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten().take(MAX_KEYS) {
            self.key_file(&entry.path());
        }
    }

    /// Adds what is in a file with a key: raw, in hexadecimal, or in PEM. A file that cannot be read gives
    /// nothing: what cannot be read cannot be added to an archive either.
    pub fn key_file(&mut self, path: &Path) {
        // Others may be able to read it, which is `doctor`'s to say.
        let bytes = match read_secret(path) {
            Ok(secret) => Zeroizing::new(secret.expose().clone()),
            Err(_) => match read_bounded(path, MAX_SECRET) {
                Ok(bytes) => Zeroizing::new(bytes),
                Err(_) => return,
            },
        };
        self.bytes(&bytes);
        if let Some(at) = bytes.windows(SEED.len()).position(|window| window == SEED)
            && let Some(seed) = bytes.get(at + SEED.len()..at + SEED.len() + 32)
        {
            self.bytes(seed);
        }
        let Ok(text) = std::str::from_utf8(&bytes) else { return };
        for line in text.lines().filter(|line| !line.starts_with("-----")) {
            self.text(line.trim());
            if let Ok(raw) = hex::decode(line.trim()) {
                self.bytes(&Zeroizing::new(raw));
            }
        }
    }

    /// Adds a file with `user:password`.
    pub fn password_file(&mut self, path: &Path) {
        self.key_file(path);
        let bytes = Zeroizing::new(read_bounded(path, MAX_SECRET).unwrap_or_default());
        let text = std::str::from_utf8(&bytes).unwrap_or_default().trim_end();
        self.bytes(text.as_bytes());
        if let Some((_, password)) = text.split_once(':') {
            self.bytes(password.as_bytes());
        }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        if let Ok(text) = std::str::from_utf8(bytes) {
            self.text(text.trim());
        }
        let lower = hex::encode(bytes);
        self.text(&lower.to_uppercase());
        self.text(&lower);
        self.text(&STANDARD_NO_PAD.encode(bytes));
        self.text(&URL_SAFE_NO_PAD.encode(bytes));
    }

    fn text(&mut self, text: &str) {
        let held = || self.0.iter().any(|held| held.as_str() == text);
        if text.len() >= SHORTEST && !held() {
            self.0.push(Zeroizing::new(text.to_owned()));
            // The longest first: one may stand inside another.
            self.0.sort_by_key(|held| std::cmp::Reverse(held.len()));
        }
    }

    /// `text` without these secrets, and without users and passwords in addresses.
    pub(super) fn redact(&self, text: &str) -> String {
        let mut text = without_userinfo(text);
        for secret in &self.0 {
            if text.contains(secret.as_str()) {
                text = text.replace(secret.as_str(), REDACTED);
            }
        }
        text
    }
}

/// Without what stands between `://` and `@` in addresses (RFC 3986, section 3.2.1).
fn without_userinfo(text: &str) -> String {
    let mut rest = text;
    let mut clean = String::with_capacity(text.len());
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        clean.push_str(before);
        let ends = |c: char| c.is_whitespace() || matches!(c, '/' | '"' | '\'' | '<' | '>');
        let authority = &after[..after.find(ends).unwrap_or(after.len())];
        rest = match authority.rfind('@') {
            Some(end) => {
                clean.push_str(REDACTED);
                &after[end..]
            }
            None => after,
        };
    }
    clean + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{SigningKey, write_secret};

    #[test]
    fn a_key_is_found_in_every_form() {
        let dir = tempfile::tempdir().unwrap();
        let [identity, vault, pem] =
            ["identity.key", "vault.key", "tls.pem"].map(|n| dir.path().join(n));
        SigningKey::create(&identity).unwrap();
        write_secret(&vault, &[0xc3; 32]).unwrap();
        let body = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg";
        let text = format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n");
        write_secret(&pem, text.as_bytes()).unwrap();
        let mut secrets = Secrets::default();
        secrets.key_dir(dir.path());
        secrets.key_file(&dir.path().join("not there"));
        let raw = fs::read(&identity).unwrap();
        let seed = &raw[16..48];
        for needle in [
            hex::encode(&raw),
            hex::encode(seed),
            hex::encode_upper(seed),
            STANDARD_NO_PAD.encode(seed),
            URL_SAFE_NO_PAD.encode([0xc3; 32]),
            hex::encode([0xc3; 32]),
            body.to_owned(),
        ] {
            let said = secrets.redact(&format!("before {needle}= after"));
            assert_eq!(said, "before [redacted]= after");
        }
        assert_eq!(secrets.redact("nothing here"), "nothing here");
    }

    #[test]
    fn a_proxys_password_is_found_alone_and_in_addresses() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        write_secret(&path, b"school:open sesame\n").unwrap();
        let mut secrets = Secrets::default();
        secrets.password_file(&path);
        assert_eq!(secrets.redact("it is open sesame!"), "it is [redacted]!");
        assert_eq!(secrets.redact("Basic c2Nob29sOm9wZW4gc2VzYW1l"), "Basic [redacted]");
        for (text, clean) in [
            ("http://u:p@h:1/x", "http://[redacted]@h:1/x"),
            ("a http://u:p@h b@c", "a http://[redacted]@h b@c"),
            ("https://h:1 https://a@b@c", "https://h:1 https://[redacted]@c"),
            ("://", "://"),
        ] {
            assert_eq!(without_userinfo(text), clean);
        }
    }
}
