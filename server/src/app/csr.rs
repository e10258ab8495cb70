//! How a bad request is called at the edge: one code for each way it can be bad.

use crate::domain::refusal::Refusal;
use muster_pki::csr::CsrError;
use muster_wire::problem::Code;

/// The refusal that `error` means.
pub(super) fn refusal(error: &CsrError) -> Refusal {
    match error {
        CsrError::TooLarge { .. } => Refusal::by("csr.size", Code::TooLarge),
        CsrError::Malformed(_) => Refusal::by("csr.form", Code::CsrMalformed),
        CsrError::SignatureInvalid => {
            Refusal::by("csr.possession", Code::CsrSignatureInvalid).at("signature")
        }
        CsrError::AlgorithmRefused { .. } => {
            Refusal::by("csr.algorithm", Code::CsrAlgorithmRefused).at("signatureAlgorithm")
        }
        CsrError::KeyRefused(_) => Refusal::by("csr.key", Code::CsrKeyRefused).at("subjectPublicKeyInfo"),
        _ => Refusal::by("csr.other", Code::CsrMalformed),
    }
}
