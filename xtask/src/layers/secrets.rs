//! Secrets that could print themselves: a derived `Debug` or `Serialize` writes every field, also into a log.
//!
//! Two rules over every type of the workspace's sources, tests aside. A type that is a secret, [`SECRETS`] by name,
//! derives neither; it redacts by hand or has no text at all. A type that has a field which would print itself,
//! [`BARE`] by type or [`NAMES`] by name and a bare type, derives neither as well. A field of a type in [`SECRETS`]
//! is harmless: that type looks after itself.

use super::manifests::Member;
use super::sources::rust_files;
use super::{Findings, Violation};
use crate::task::Failure;
use proc_macro2::TokenTree;
use std::path::Path;
use syn::visit::Visit;

/// Types that are secrets, and where.
const SECRETS: &[(&str, &str)] = &[
    ("pki/src/authority.rs", "CaKey"),
    ("pki/src/key/pair.rs", "DeviceKey"),
    ("server/src/app/found.rs", "Founding"),
    ("server/src/app/idempotency.rs", "Slot"),
    ("server/src/ca/authorities.rs", "Signing"),
    ("server/src/ca/mod.rs", "Ca"),
    ("server/src/cli/credential.rs", "Bearer"),
    ("server/src/domain/operator.rs", "Secret"),
    ("wire/src/enrollment.rs", "Token"),
];

/// Types of other crates that hold a secret and print it, or could with the next release.
const BARE: &[&str] = &["EcdsaKeyPair", "Ed25519KeyPair", "KeyPair", "SecretKey", "SigningKey", "Zeroizing"];

/// Fields that are secrets where their type is text or bytes.
const NAMES: &[&str] =
    &["bearer", "entropy", "passphrase", "password", "private_key", "secret", "seed", "token"];

/// Text and bytes.
const PLAIN: &[&str] = &["String", "Vec", "u8", "str"];

/// Types that exist to carry a secret out, in the one answer that shows it, and what they may derive for that.
const SHOWN_ONCE: &[(&str, &str)] = &[("Credential", "Serialize"), ("MintedToken", "Serialize")];

/// What a secret does not derive.
const LOUD: &[&str] = &["Debug", "Serialize", "Display"];

/// Adds every loud secret in the sources of `member`; harness and tasks hold only what tests made up.
pub(crate) fn check(root: &Path, member: &Member, findings: &mut Findings) -> Result<(), Failure> {
    let source_root = member.directory.join("src");
    let is_harness = ["tests", "xtask"].iter().any(|name| member.directory.ends_with(name));
    // A crate that no table knows is a violation already.
    if is_harness || member.rule().is_none() {
        return Ok(());
    }
    for file in rust_files(&root.join(&source_root))? {
        let text = std::fs::read_to_string(&file).map_err(Failure::file(&file))?;
        judge(file.strip_prefix(root).unwrap_or(&file), &text, findings)?;
    }
    Ok(())
}

fn judge(shown: &Path, text: &str, findings: &mut Findings) -> Result<(), Failure> {
    let parsed = syn::parse_file(text).map_err(|cause| {
        Failure::red(format!("{}: {cause}", shown.display()), "mend the file; rustc cannot read it either")
    })?;
    Types { shown, findings }.visit_file(&parsed);
    Ok(())
}

struct Types<'f> {
    shown: &'f Path,
    findings: &'f mut Findings,
}

impl Types<'_> {
    fn judge<'a>(
        &mut self,
        ident: &syn::Ident,
        attributes: &[syn::Attribute],
        fields: impl Iterator<Item = &'a syn::Field>,
    ) {
        let name = ident.to_string();
        let why = if SECRETS.iter().any(|(file, secret)| *secret == name && self.shown == Path::new(file)) {
            Some("it is a secret".to_owned())
        } else {
            fields.filter(|field| is_secret(field)).map(described).next()
        };
        let Some(why) = why else { return };
        for loud in derived(attributes).into_iter().filter(|one| LOUD.contains(&one.as_str())) {
            if !SHOWN_ONCE.contains(&(name.as_str(), loud.as_str())) {
                let what = format!("{name} derives {loud}, and {why}; write one that shows nothing");
                let line = ident.span().start().line;
                self.findings.violations.push(Violation { file: self.shown.to_owned(), line, what });
            }
        }
    }
}

impl<'ast> Visit<'ast> for Types<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let is_test = item.attrs.iter().any(|attribute| words(attribute) == ["cfg", "test"]);
        if !is_test {
            syn::visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        self.judge(&item.ident, &item.attrs, item.fields.iter());
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        self.judge(&item.ident, &item.attrs, item.variants.iter().flat_map(|variant| variant.fields.iter()));
    }
}

fn described(field: &syn::Field) -> String {
    let name = field.ident.as_ref().map(ToString::to_string);
    name.map_or_else(|| "its field is a secret".to_owned(), |name| format!("its field {name} is a secret"))
}

fn is_secret(field: &syn::Field) -> bool {
    let mut types = Mentioned::default();
    types.visit_type(&field.ty);
    let is_any = |list: &[&str]| types.0.iter().any(|found| list.contains(&found.as_str()));
    let is_named = field.ident.as_ref().is_some_and(|name| NAMES.contains(&name.to_string().as_str()));
    is_any(BARE) || (is_named && is_any(PLAIN))
}

/// Last names of the paths in a type.
#[derive(Default)]
struct Mentioned(Vec<String>);

impl<'ast> Visit<'ast> for Mentioned {
    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.0.extend(path.segments.last().map(|last| last.ident.to_string()));
        syn::visit::visit_path(self, path);
    }
}

/// What is derived, by its last name.
fn derived(attributes: &[syn::Attribute]) -> Vec<String> {
    let derives = attributes.iter().filter(|attribute| attribute.path().is_ident("derive"));
    derives.flat_map(|attribute| words(attribute).into_iter().skip(1)).collect()
}

/// Every name in an attribute, in order.
fn words(attribute: &syn::Attribute) -> Vec<String> {
    let mut found: Vec<String> =
        attribute.path().segments.iter().map(|segment| segment.ident.to_string()).collect();
    if let syn::Meta::List(list) = &attribute.meta {
        let names = list.tokens.clone().into_iter().filter_map(|tree| match tree {
            TokenTree::Ident(name) => Some(name.to_string()),
            TokenTree::Group(_) | TokenTree::Punct(_) | TokenTree::Literal(_) => None,
        });
        found.extend(names);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        let mut findings = Findings::default();
        judge(Path::new("x.rs"), text, &mut findings).unwrap();
        findings.violations.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_derived_debug_on_what_holds_a_secret_is_found_with_file_and_line() {
        let said = found("\n#[derive(Clone, Debug)]\nstruct Held { seed: Zeroizing<[u8; 32]> }");
        assert_eq!(
            said,
            ["x.rs:3: Held derives Debug, and its field seed is a secret; write one that shows nothing"]
        );
    }

    #[test]
    fn a_type_that_is_a_secret_by_name_is_one_in_its_own_file() {
        for (file, name) in SECRETS {
            let text = format!("#[derive(Debug)] struct {name}(u8);");
            let mut findings = Findings::default();
            judge(Path::new(file), &text, &mut findings).unwrap();
            assert_eq!(findings.violations.len(), 1, "{file}");
            assert_eq!(found(&text), [""; 0], "another type of that name is none");
        }
    }

    #[test]
    fn every_secret_by_name_is_still_where_the_list_says() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        for (file, name) in SECRETS {
            let text = std::fs::read_to_string(root.join(file)).unwrap();
            assert!(text.contains(&format!("struct {name}")), "{file} has no {name} any more");
        }
    }

    #[test]
    fn every_way_to_print_a_secret_is_found() {
        for loud in [
            "#[derive(std::fmt::Debug)] struct A(SigningKey);",
            "#[derive(serde::Serialize)] struct A { token: String }",
            "#[derive(Debug)] struct A { secret: Option<Vec<u8>> }",
            "#[derive(Debug)] struct A { password: &'static str }",
            "#[derive(Debug)] struct A { seed: [u8; 32] }",
            "#[derive(Debug)] enum A { B { bearer: Arc<Zeroizing<String>> } }",
            "mod inner { #[derive(Debug)] enum A { B(zeroize::Zeroizing<String>) } }",
        ] {
            assert_eq!(found(loud).len(), 1, "{loud}");
        }
    }

    #[test]
    fn what_is_no_secret_or_looks_after_itself_may_derive() {
        for quiet in [
            "#[derive(Clone)] struct Token(String);",
            "#[derive(Debug)] struct Enrollment { token: Token }",
            "#[derive(Debug)] struct A { token: TokenId }",
            "#[derive(Debug, Serialize)] struct A { text: String }",
            "#[cfg(test)] mod tests { #[derive(Debug)] struct A { token: String } }",
        ] {
            assert_eq!(found(quiet), [""; 0], "{quiet}");
        }
    }
}
