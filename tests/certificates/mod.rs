//! Certificates for tests, made when they are needed: authorities, and nodes with a PEM file as `TlsIdentity` reads it.

#![allow(dead_code, reason = "each test file uses its own part")]

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256,
};
use std::process::Command;
use syncq::pool::TlsIdentity;

/// Issues certificates.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// The certificates from this one up to the root, PEM.
    pub chain: String,
}

fn of_authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

impl Authority {
    /// A root.
    pub fn new(name: &str) -> Self {
        Self::with_key(name, KeyPair::generate().unwrap())
    }

    pub fn with_key(name: &str, key: KeyPair) -> Self {
        let issuer = CertifiedIssuer::self_signed(of_authority(name), key).unwrap();
        let chain = issuer.pem();
        Authority { issuer, chain }
    }

    /// One below this one.
    pub fn intermediate(&self, name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let issuer = CertifiedIssuer::signed_by(of_authority(name), key, &self.issuer).unwrap();
        let chain = issuer.pem() + &self.chain;
        Authority { issuer, chain }
    }

    /// A node's certificate for both sides of a connection.
    pub fn issue(&self, name: &str) -> Node {
        self.issue_with(name, KeyPair::generate().unwrap(), |_| {})
    }

    pub fn issue_with(&self, name: &str, key: KeyPair, change: impl FnOnce(&mut CertificateParams)) -> Node {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Node {
            key: key.serialize_pem(),
            certificate: certificate.pem(),
            chain: self.chain.clone(),
        }
    }

    /// A node's identity, ready to be used.
    pub fn identity(&self, name: &str) -> TlsIdentity {
        TlsIdentity::from_pem(self.issue(name).pem().as_bytes()).expect("a good certificate")
    }
}

/// A node's key and certificates, PEM.
pub struct Node {
    pub key: String,
    pub certificate: String,
    pub chain: String,
}

impl Node {
    /// All in one, as libchirp wants it.
    pub fn pem(&self) -> String {
        format!("{}{}{}", self.key, self.certificate, self.chain)
    }
}

/// A P-384 key.
pub fn key_384() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap()
}

/// An RSA key. ring cannot make one, so the `openssl` command does. [`None`], loudly, where that is missing; with `CI` set it must not be.
pub fn key_rsa() -> Option<KeyPair> {
    let made = Command::new("openssl")
        .args(["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"])
        .output();
    match made {
        Ok(made) if made.status.success() => {
            let pem = String::from_utf8(made.stdout).unwrap();
            Some(KeyPair::from_pkcs8_pem_and_sign_algo(&pem, &PKCS_RSA_SHA256).unwrap())
        }
        other => {
            assert!(
                std::env::var_os("CI").is_none(),
                "the openssl command is needed: {other:?}"
            );
            eprintln!("SKIPPED: RSA keys, which the openssl command makes: {other:?}");
            None
        }
    }
}
