//! Every path that a file spells, resolved to the crate's root where it can be.
//!
//! Looks at `use` trees, inline paths, visibilities, the token streams of macros (which rustc expands and syn does
//! not) and string literals inside attributes (`#[serde(with = "crate::…")]`). What it does not resolve: names that
//! an import brought in, since the import itself is judged.

use proc_macro2::{Delimiter, Spacing, TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// How a path was spelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spelling {
    /// In a `use` declaration.
    Import,
    /// In an expression, a type, a pattern, a macro or an attribute.
    Inline,
    /// No path of its own: a `#[path]` attribute that leads out of the directory.
    PathAttribute,
}

/// One path in a file.
#[derive(Clone, Debug)]
pub(crate) struct Mention {
    /// Line, counted from 1.
    pub(crate) line: usize,
    /// How it was spelled.
    pub(crate) spelling: Spelling,
    /// The segments as written, `crate` and `super` included; a glob ends in nothing.
    pub(crate) written: Vec<String>,
    /// The segments from the crate's root, when the path is one of this crate; empty for the root itself.
    pub(crate) target: Option<Vec<String>>,
}

/// Every path in `file`, which is the module `module` of the crate called `crate_name` in paths.
pub(crate) fn mentions(file: &syn::File, crate_name: &str, module: &[String]) -> Vec<Mention> {
    let mut reader = Reader { crate_name, module: module.to_vec(), depth: 0, found: Vec::new() };
    reader.visit_file(file);
    reader.found
}

/// The modules at the top of `file` whose text is a neighbour in the same directory: (file name, module).
pub(crate) fn adoptions(file: &syn::File) -> Vec<(String, String)> {
    let modules =
        file.items.iter().filter_map(|item| if let syn::Item::Mod(item) = item { Some(item) } else { None });
    modules.filter_map(|item| neighbour(item).map(|name| (name, item.ident.to_string()))).collect()
}

/// The file in the same directory that `#[path]` names, if it does.
fn neighbour(item: &syn::ItemMod) -> Option<String> {
    let named = |attribute: &syn::Attribute| {
        let syn::Meta::NameValue(pair) = &attribute.meta else { return None };
        let syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) = &pair.value else { return None };
        pair.path.is_ident("path").then(|| text.value())
    };
    item.attrs.iter().find_map(named).filter(|name| !name.contains(['/', '\\']))
}

struct Reader<'a> {
    crate_name: &'a str,
    module: Vec<String>,
    /// Inline modules around the place that is being read.
    depth: usize,
    found: Vec<Mention>,
}

impl Reader<'_> {
    fn note(&mut self, line: usize, spelling: Spelling, written: Vec<String>) {
        let target = self.resolve(&written, spelling);
        self.found.push(Mention { line, spelling, written, target });
    }

    /// The segments from the crate's root, or `None` for a path that leads elsewhere.
    fn resolve(&self, written: &[String], spelling: Spelling) -> Option<Vec<String>> {
        let (first, rest) = written.split_first()?;
        let mut base = match first.as_str() {
            "crate" | "$crate" => Vec::new(),
            name if name == self.crate_name => Vec::new(),
            "self" if spelling == Spelling::Inline && rest.is_empty() => return None,
            "self" => self.module.clone(),
            "super" => self.parent(&self.module)?,
            // Edition 2018 resolves a bare first segment against the module itself; only in the root files
            // is that module the one that holds the rooms. A name alone may be a variable there.
            _ if self.module.is_empty() && (spelling == Spelling::Import || !rest.is_empty()) => {
                return Some(written.to_vec());
            }
            _ => return None,
        };
        for segment in rest {
            match segment.as_str() {
                "super" => base = self.parent(&base)?,
                "self" => {}
                _ => base.push(segment.clone()),
            }
        }
        Some(base)
    }

    fn parent(&self, module: &[String]) -> Option<Vec<String>> {
        module.split_last().map(|(_, parent)| parent.to_vec())
    }

    fn use_tree(&mut self, prefix: &[String], tree: &syn::UseTree) {
        let with = |ident: &syn::Ident| {
            let mut longer = prefix.to_vec();
            longer.push(ident.to_string());
            longer
        };
        let line = tree.span().start().line;
        match tree {
            syn::UseTree::Path(path) => self.use_tree(&with(&path.ident), &path.tree),
            syn::UseTree::Name(name) => self.note(line, Spelling::Import, with(&name.ident)),
            syn::UseTree::Rename(rename) => self.note(line, Spelling::Import, with(&rename.ident)),
            syn::UseTree::Glob(_) => self.note(line, Spelling::Import, prefix.to_vec()),
            syn::UseTree::Group(group) => {
                for item in &group.items {
                    self.use_tree(prefix, item);
                }
            }
        }
    }

    /// Paths in tokens that nobody has parsed: `a::b`, `a::{b, c::d}`, and strings in attributes.
    fn tokens(&mut self, stream: TokenStream, strings: StringLiterals) {
        let trees: Vec<TokenTree> = stream.into_iter().collect();
        let mut at = 0;
        while let Some(tree) = trees.get(at) {
            match tree {
                TokenTree::Ident(ident) => {
                    let line = ident.span().start().line;
                    at = self.token_path(&trees, at + 1, line, vec![ident.to_string()]);
                    continue;
                }
                TokenTree::Group(group) => self.tokens(group.stream(), strings),
                TokenTree::Literal(literal) if strings == StringLiterals::MayBePaths => {
                    let text = literal.to_string();
                    let text = text.trim_matches('"');
                    if text.contains("::") && !text.contains(char::is_whitespace) {
                        let written = text.split("::").map(str::to_owned).collect();
                        self.note(literal.span().start().line, Spelling::Inline, written);
                    }
                }
                TokenTree::Literal(_) | TokenTree::Punct(_) => {}
            }
            at += 1;
        }
    }

    /// Follows `::` from `at` on; notes the path and answers where reading goes on.
    fn token_path(
        &mut self,
        trees: &[TokenTree],
        mut at: usize,
        line: usize,
        mut written: Vec<String>,
    ) -> usize {
        while is_path_separator(trees, at) {
            match trees.get(at + 2) {
                Some(TokenTree::Ident(ident)) => {
                    written.push(ident.to_string());
                    at += 3;
                }
                Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                    self.token_group(group.stream(), &written);
                    return at + 3;
                }
                _ => break,
            }
        }
        self.note(line, Spelling::Inline, written);
        at
    }

    fn token_group(&mut self, stream: TokenStream, prefix: &[String]) {
        let trees: Vec<TokenTree> = stream.into_iter().collect();
        let mut at = 0;
        while let Some(tree) = trees.get(at) {
            at += 1;
            if let TokenTree::Ident(ident) = tree {
                let mut longer = prefix.to_vec();
                longer.push(ident.to_string());
                at = self.token_path(&trees, at, ident.span().start().line, longer);
            }
        }
    }
}

/// What a string literal among tokens may be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum StringLiterals {
    /// Words for people.
    AreText,
    /// A path, as attributes of derive macros take it.
    MayBePaths,
}

fn is_path_separator(trees: &[TokenTree], at: usize) -> bool {
    let colon = |tree: Option<&TokenTree>, spacing: Option<Spacing>| {
        matches!(tree, Some(TokenTree::Punct(punct)) if punct.as_char() == ':'
            && spacing.is_none_or(|spacing| punct.spacing() == spacing))
    };
    colon(trees.get(at), Some(Spacing::Joint)) && colon(trees.get(at + 1), None)
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        for attribute in &item.attrs {
            // Within an inline module the same name would lead to another directory.
            let stays = self.depth == 0 && neighbour(item).is_some();
            if attribute.path().is_ident("path") && !stays {
                let line = attribute.span().start().line;
                self.found.push(Mention {
                    line,
                    spelling: Spelling::PathAttribute,
                    written: Vec::new(),
                    target: None,
                });
            }
        }
        self.module.push(item.ident.to_string());
        self.depth += 1;
        visit::visit_item_mod(self, item);
        self.depth -= 1;
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.use_tree(&[], &item.tree);
    }

    fn visit_item_extern_crate(&mut self, item: &'ast syn::ItemExternCrate) {
        let name = if item.ident == "self" { "crate".to_owned() } else { item.ident.to_string() };
        self.note(item.span().start().line, Spelling::Import, vec![name]);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let written = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.note(path.span().start().line, Spelling::Inline, written);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, invocation: &'ast syn::Macro) {
        self.tokens(invocation.tokens.clone(), StringLiterals::AreText);
        visit::visit_macro(self, invocation);
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        if attribute.path().is_ident("doc") {
            return;
        }
        match &attribute.meta {
            syn::Meta::List(list) => self.tokens(list.tokens.clone(), StringLiterals::MayBePaths),
            syn::Meta::NameValue(pair) => {
                if let syn::Expr::Lit(literal) = &pair.value
                    && let syn::Lit::Str(text) = &literal.lit
                    && text.value().contains("::")
                {
                    let written = text.value().split("::").map(str::to_owned).collect();
                    self.note(text.span().start().line, Spelling::Inline, written);
                }
            }
            syn::Meta::Path(_) => {}
        }
    }
}
