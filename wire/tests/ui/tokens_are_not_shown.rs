//! A token has no `Display`.

use muster_wire::enrollment::Token;

fn main() {
    let show = |token: &Token| format!("{token}");
    let _ = show;
}
