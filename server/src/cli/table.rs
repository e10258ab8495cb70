//! Tables for people.
//!
//! A listing is declared as columns, each a heading and a JSON pointer into the items that the server sent; a
//! single thing is shown as rows of the same. Whatever comes from a device or from another operator is stripped
//! of its power over the terminal first ([`plain`]): the device is the attacker.

use comfy_table::presets::NOTHING;
use comfy_table::{Attribute, Cell, ContentArrangement, Table};
use serde_json::Value;

/// One column of a listing, or one row of a record.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// What stands above or before it.
    pub heading: &'static str,
    /// Where its value lies (RFC 6901).
    pub pointer: &'static str,
}

/// A column of this heading, filled from this pointer.
pub const fn column(heading: &'static str, pointer: &'static str) -> Column {
    Column { heading, pointer }
}

/// How tables look on the present output.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// Width to fit into; `None` lets lines be as long as they are.
    pub width: Option<u16>,
    /// Whether headings may be set off with terminal attributes.
    pub styled: bool,
}

/// The items as a listing; `None` when there are none. What is wider than a terminal is shown as one record for each item:
/// an id that is broken to fit a column can neither be read nor copied.
pub fn listing(items: &[Value], columns: &[Column], look: Look) -> Option<String> {
    if items.is_empty() {
        return None;
    }
    let rows = in_rows(items, columns, Look { width: None, ..look });
    let widest = rows.lines().map(width_of).max().unwrap_or(0);
    if look.width.is_none_or(|width| widest <= usize::from(width)) {
        return Some(rows);
    }
    let unbroken = Look { width: None, ..look };
    let records: Vec<String> = items.iter().map(|item| record(item, columns, unbroken)).collect();
    Some(records.join("\n\n"))
}

/// Columns that `line` takes on a terminal: its characters, but for attributes (`ESC [ … m`).
fn width_of(line: &str) -> usize {
    let (mut width, mut in_attribute) = (0, false);
    for c in line.chars() {
        match c {
            '\u{1b}' => in_attribute = true,
            'm' if in_attribute => in_attribute = false,
            _ if in_attribute => {}
            _ => width += 1,
        }
    }
    width
}

fn in_rows(items: &[Value], columns: &[Column], look: Look) -> String {
    let mut table = empty(look);
    table.set_header(columns.iter().map(|column| heading(column.heading)));
    for item in items {
        table.add_row(columns.iter().map(|column| Cell::new(value_at(item, column.pointer))));
    }
    render(&table)
}

/// One thing as rows of heading and value; what is null or absent is left out.
pub fn record(item: &Value, rows: &[Column], look: Look) -> String {
    let pairs: Vec<_> = rows
        .iter()
        .filter(|row| item.pointer(row.pointer).is_some_and(|value| !is_nothing(value)))
        .map(|row| (row.heading, value_at(item, row.pointer)))
        .collect();
    facts(&pairs, look)
}

/// Rows of heading and value.
pub fn facts(pairs: &[(&str, String)], look: Look) -> String {
    let mut table = empty(look);
    for (name, value) in pairs {
        table.add_row([heading(name), Cell::new(plain(value))]);
    }
    render(&table)
}

/// The value at `pointer` in words: `-` for nothing, lists joined by commas, objects as `key=value`, each of several on a line
/// of its own. A line end inside a text is spelled out.
pub fn value_at(item: &Value, pointer: &str) -> String {
    item.pointer(pointer).map_or_else(|| "-".to_owned(), in_words)
}

fn in_words(value: &Value) -> String {
    if is_nothing(value) {
        return "-".to_owned();
    }
    match value {
        Value::String(text) => plain(text).replace('\n', "\\n"),
        Value::Array(items) if items.iter().all(Value::is_object) => {
            items.iter().map(in_words).collect::<Vec<_>>().join("\n")
        }
        Value::Array(items) => items.iter().map(in_words).collect::<Vec<_>>().join(", "),
        Value::Object(fields) => {
            let pairs = fields.iter().map(|(key, value)| format!("{}={}", plain(key), in_words(value)));
            pairs.collect::<Vec<_>>().join(", ")
        }
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Null | Value::Number(_) => value.to_string(),
    }
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// `text` with every control character, and every mark that turns the direction of writing, spelled out.
pub fn plain(text: &str) -> String {
    let steers = |c: char| {
        (c.is_control() && c != '\n')
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
    };
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if steers(c) { shown.extend(c.escape_unicode()) } else { shown.push(c) }
    }
    shown
}

fn empty(look: Look) -> Table {
    let mut table = Table::new();
    table.load_preset(NOTHING);
    if look.styled {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    match look.width {
        Some(width) => table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width),
        None => table.set_content_arrangement(ContentArrangement::Disabled),
    };
    table
}

fn heading(text: &str) -> Cell {
    Cell::new(text).add_attribute(Attribute::Bold)
}

/// The table's lines, flush left and without blanks at their ends.
fn render(table: &Table) -> String {
    table.trim_fmt().lines().map(|line| line.strip_prefix(' ').unwrap_or(line)).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const LOOK: Look = Look { width: None, styled: false };
    const COLUMNS: &[Column] =
        &[column("ID", "/id"), column("SERIAL", "/serial"), column("CERTIFICATE", "/certificate/status")];

    #[test]
    fn a_listing_lines_up_under_its_headings() {
        let items = [
            json!({"id": "a1", "serial": "SN-0001", "certificate": {"status": "current"}}),
            json!({"id": "a2", "serial": null, "certificate": null}),
        ];
        insta::assert_snapshot!(listing(&items, COLUMNS, LOOK).unwrap(), @r"
        ID  SERIAL   CERTIFICATE
        a1  SN-0001  current
        a2  -        -
        ");
    }

    #[test]
    fn what_is_wider_than_the_terminal_becomes_records_and_no_id_is_broken() {
        let id = "0198e2c4-0000-7000-8000-000000000001";
        let items =
            [json!({"id": id, "serial": "SN-1", "certificate": {"status": "current"}}), json!({"id": "b"})];
        let narrow = Look { width: Some(50), styled: false };
        insta::assert_snapshot!(listing(&items, COLUMNS, narrow).unwrap(), @r"
        ID           0198e2c4-0000-7000-8000-000000000001
        SERIAL       SN-1
        CERTIFICATE  current

        ID  b
        ");
        let wide = Look { width: Some(60), styled: true };
        assert!(listing(&items, COLUMNS, wide).unwrap().lines().count() == 3);
    }

    #[test]
    fn several_objects_stand_on_a_line_each_and_a_line_end_in_a_text_breaks_none() {
        let item = json!({"receipts": [{"at": "1", "phase": "armed"}, {"at": "2", "reason": "a\nb"}]});
        insta::assert_snapshot!(record(&item, &[column("receipts", "/receipts")], LOOK), @r"
        receipts  at=1, phase=armed
                  at=2, reason=a\nb
        ");
    }

    #[test]
    fn nothing_to_list_is_no_table() {
        assert!(listing(&[], COLUMNS, LOOK).is_none());
    }

    #[test]
    fn a_record_leaves_out_what_is_not_there() {
        let item =
            json!({"id": "a1", "serial": null, "labels": {"line": "3", "bench": "b"}, "connected": false});
        let rows = [
            column("id", "/id"),
            column("serial", "/serial"),
            column("labels", "/labels"),
            column("connected", "/connected"),
        ];
        insta::assert_snapshot!(record(&item, &rows, LOOK), @r"
        id         a1
        labels     bench=b, line=3
        connected  no
        ");
    }

    #[test]
    fn a_hostile_name_cannot_steer_the_terminal() {
        let items = [json!({"id": "\u{1b}]0;owned\u{7}", "serial": "abc\u{202e}fed"})];
        let text = listing(&items, COLUMNS, LOOK).unwrap();
        assert!(!text.contains(['\u{1b}', '\u{7}', '\u{202e}']));
        assert!(text.contains("\\u{1b}]0;owned\\u{7}") && text.contains("\\u{202e}"));
    }

    #[test]
    fn without_a_terminal_nothing_is_wrapped() {
        let long = "x".repeat(300);
        let text = facts(&[("enrollment", long.clone())], LOOK);
        assert_eq!(text, format!("enrollment  {long}"));
    }
}
