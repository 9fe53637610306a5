//! Invitations: the file by which the coordinator's operator lets one institution enrol once. The
//! coordinator keeps only the token's digest; the file goes to the institution over a channel that
//! both trust, and carries the coordinator's CA so that the first connection is already pinned.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;
use zeroize::Zeroize;

use crate::{
    clock::Timestamp,
    crypto::{self, CryptoError, Digest, Key},
    durable,
    ids::InstitutionId,
};

/// The most bytes of the CA certificate in an invitation.
const MAX_CERTIFICATE: usize = 16 << 10;
/// The most bytes of the operator's note.
const MAX_NOTE: usize = 1_024;

/// Why an invitation cannot be written or used.
#[derive(Debug, Error)]
pub enum TokenError {
    #[error(transparent)]
    File(#[from] CryptoError),
    #[error("{path}: {reason}; ask the coordinator's operator for a new invitation")]
    Malformed { path: PathBuf, reason: String },
    #[error(
        "{path}: the invitation expired at {expires_at}; ask the coordinator's operator for a new one"
    )]
    Expired { path: PathBuf, expires_at: Timestamp },
    #[error("the note in an invitation may have at most {MAX_NOTE} bytes")]
    LongNote,
}

/// An invitation for one institution.
pub struct TokenFile {
    pub institution: InstitutionId,
    /// Whoever holds it may enrol as the institution, once.
    pub token: Key,
    pub expires_at: Timestamp,
    /// PEM of the coordinator's CA: the only one that the agent accepts.
    pub ca_certificate: String,
    /// Whatever the operator wants to say, for example the coordinator's address.
    pub note: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    institution: InstitutionId,
    token: String,
    expires_at: Timestamp,
    ca_certificate: String,
    #[serde(default)]
    note: String,
}

impl Drop for Form {
    fn drop(&mut self) {
        self.token.zeroize();
    }
}

impl TokenFile {
    /// An invitation with a fresh token.
    pub fn new(
        institution: InstitutionId,
        expires_at: Timestamp,
        ca_certificate: String,
        note: String,
    ) -> Result<Self, TokenError> {
        if note.len() > MAX_NOTE {
            return Err(TokenError::LongNote);
        }
        Ok(Self { institution, token: Key::random()?, expires_at, ca_certificate, note })
    }

    /// What the coordinator keeps: SHA-256 of the token's 32 bytes.
    pub fn token_sha256(&self) -> Digest {
        Digest::of(self.token.expose())
    }

    /// Writes the invitation (mode 0600); refuses to overwrite. Durable when this returns.
    pub fn write(&self, path: &Path) -> Result<(), TokenError> {
        let mut text = self.to_toml();
        let written = crypto::write_secret(path, text.as_bytes());
        text.zeroize();
        written?;
        let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let io_error = |source| CryptoError::Io { path: dir.display().to_string(), source };
        Ok(durable::sync_dir(dir).map_err(io_error)?)
    }

    /// Reads an invitation that can still be used at `now`; refuses a file that group or others
    /// can read. No message quotes the file, because it holds the token.
    pub fn load(path: &Path, now: Timestamp) -> Result<Self, TokenError> {
        let bytes = crypto::read_secret(path)?;
        let token_file = Self::parse(bytes.expose())
            .map_err(|reason| TokenError::Malformed { path: path.to_path_buf(), reason })?;
        let expires_at = token_file.expires_at;
        if now < expires_at {
            Ok(token_file)
        } else {
            Err(TokenError::Expired { path: path.to_path_buf(), expires_at })
        }
    }

    fn to_toml(&self) -> String {
        let Self { institution, expires_at, .. } = self;
        let mut token = hex::encode(self.token.expose());
        // Strings are written through toml's own quoting, so that no note can add a key.
        let quoted = |text: &str| toml::Value::from(text).to_string();
        let text = format!(
            "# A Collegium invitation for {institution}. Whoever holds this file can enrol in its name,\n\
             # once, until it expires: keep it secret and delete it afterwards.\n\
             institution = \"{institution}\"\n\
             token = \"{token}\"\n\
             expires_at = \"{expires_at}\"\n\
             note = {}\n\
             # The only certificate authority that the agent will accept from the coordinator.\n\
             ca_certificate = {}\n",
            quoted(&self.note),
            quoted(&self.ca_certificate),
        );
        token.zeroize();
        text
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "this is not text")?;
        let form: Form = toml::from_str(text).map_err(|error| describe(text, &error))?;
        let mut token = [0; 32];
        hex::decode_to_slice(&form.token, &mut token)
            .map_err(|_| "the token is not 32 bytes written as hexadecimal")?;
        let token = Key::new(token);
        let certificate = form.ca_certificate.trim();
        let framed = certificate.starts_with("-----BEGIN CERTIFICATE-----")
            && certificate.ends_with("-----END CERTIFICATE-----");
        if !framed || certificate.len() > MAX_CERTIFICATE {
            return Err("ca_certificate is not a certificate in PEM".into());
        }
        if form.note.len() > MAX_NOTE {
            return Err("the note is too long".into());
        }
        Ok(Self {
            institution: form.institution.clone(),
            token,
            expires_at: form.expires_at,
            ca_certificate: form.ca_certificate.clone(),
            note: form.note.clone(),
        })
    }
}

/// Where and why, without the line itself that toml's own message would quote.
fn describe(text: &str, error: &toml::de::Error) -> String {
    let line = error.span().map_or(1, |span| {
        text.as_bytes().iter().take(span.start).filter(|b| **b == b'\n').count() + 1
    });
    format!("line {line} is not as an invitation has it")
}

/// What an institution's identity key signs when it enrols: it asks for a certificate over the key
/// in this request (PKCS#10, DER), under this name.
pub fn enrolment_digest(institution: &InstitutionId, csr: &[u8]) -> Digest {
    Digest::of_parts("collegium/v1/enrol", &[institution.as_str().as_bytes(), csr])
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

    use super::*;

    const PEM: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    const NOW: Timestamp = Timestamp::EPOCH;

    fn invitation(note: &str) -> TokenFile {
        let institution = "school-a".parse().unwrap();
        TokenFile::new(institution, NOW + Duration::from_secs(60), PEM.into(), note.into()).unwrap()
    }

    fn rewritten(path: &Path, from: &str, to: &str) -> TokenError {
        let text = fs::read_to_string(path).unwrap();
        assert!(text.contains(from));
        fs::write(path, text.replacen(from, to, 1)).unwrap();
        let error = TokenFile::load(path, NOW).err().unwrap();
        fs::write(path, text).unwrap();
        error
    }

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.toml");
        let written = invitation("call \"us\"\ntoken = 1");
        written.write(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let read = TokenFile::load(&path, NOW).unwrap();
        assert_eq!(read.token_sha256(), written.token_sha256());
        assert_eq!(read.institution, written.institution);
        assert_eq!(read.ca_certificate, PEM);
        assert_eq!(read.note, written.note);
        assert!(matches!(invitation("").write(&path), Err(TokenError::File(_))), "no overwriting");
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.toml");
        invitation("").write(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = TokenFile::load(&path, NOW).err().unwrap();
        assert!(matches!(error, TokenError::File(CryptoError::Exposed { .. })));
    }

    #[test]
    fn an_expired_invitation_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.toml");
        invitation("").write(&path).unwrap();
        let late = NOW + Duration::from_secs(60);
        assert!(matches!(TokenFile::load(&path, late), Err(TokenError::Expired { .. })));
    }

    #[test]
    fn damage_is_refused_without_quoting_the_token() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.toml");
        let written = invitation("");
        written.write(&path).unwrap();
        let token = hex::encode(written.token.expose());
        let shorter = &token[..62];
        let changes = [
            ("note =", "remark ="),
            ("token = \"", "token = "),
            ("token = \"", "token = \"zz"),
            (token.as_str(), shorter),
            ("school-a\"", "School A\""),
            ("1970-", "soon-"),
            ("-----BEGIN", "BEGIN"),
        ];
        for (from, to) in changes {
            let error = rewritten(&path, from, to);
            assert!(matches!(error, TokenError::Malformed { .. }), "{from}");
            assert!(!error.to_string().contains(&token[..16]), "{from}: {error}");
        }
        assert!(rewritten(&path, "note =", "remark =").to_string().contains("line "));
    }
}
