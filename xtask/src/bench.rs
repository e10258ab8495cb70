//! `cargo xtask bench`: the rows of the performance page that exist, each beside its gate and its target.
//!
//! `cargo xtask bench M1 E3` runs these rows only.
//!
//! The programs in `tests/benches` measure; each writes `{"conditions": {…}, "rows": [{"id": …, …}]}` to the file named
//! by `MUSTER_BENCH_JSON`. Here the rows are judged, printed as one table and written as one file. A row that misses
//! its gate, or that nobody measured, is red.

use crate::packages;
use crate::task::{Failure, Workspace};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

/// How the task is spelled.
pub(crate) const USAGE: &str = "usage: cargo xtask bench [NAME…] [--json FILE]";

/// The programs in `tests/benches`, and the rows that each measures.
const PROGRAMS: &[(&str, &[&str])] = &[
    ("enroll", &["E1", "E2"]),
    ("sessions", &["E3", "M1", "M2", "M3"]),
    ("arrival", &["E4", "E5"]),
    ("agent", &["A1"]),
];

/// One figure of a row: never worse than the gate, as good as the target one day.
#[derive(Debug)]
struct Bound {
    /// The field of the row.
    field: &'static str,
    /// Never worse.
    gate: f64,
    /// Where it should get to.
    target: f64,
}

/// One row of the performance page.
#[derive(Debug)]
struct Row {
    id: &'static str,
    what: &'static str,
    bounds: &'static [Bound],
}

const ROWS: &[Row] = &[
    Row {
        id: "E1",
        what: "new TLS connection, token redeemed, certificate durable",
        bounds: &[
            Bound { field: "cpu_us", gate: 450.0, target: 300.0 },
            Bound { field: "fsyncs_per_op", gate: 0.10, target: 0.03 },
        ],
    },
    Row {
        id: "E2",
        what: "the same on a kept connection",
        bounds: &[Bound { field: "cpu_us", gate: 160.0, target: 110.0 }],
    },
    Row {
        id: "E3",
        what: "renewal over a new mutual TLS connection; inside the live session",
        bounds: &[
            Bound { field: "cpu_us", gate: 500.0, target: 400.0 },
            Bound { field: "session_cpu_us", gate: 180.0, target: 130.0 },
        ],
    },
    Row {
        id: "E4",
        what: "agent started to baseline reported, one at a time, on tmpfs",
        bounds: &[
            Bound { field: "p50_ms", gate: 15.0, target: 3.0 },
            Bound { field: "p99_ms", gate: 50.0, target: 10.0 },
        ],
    },
    Row {
        id: "E5",
        what: "devices power on at once: seconds for 10,000, devices lost, known twice",
        bounds: &[
            Bound { field: "seconds_at_10000", gate: 15.0, target: 5.0 },
            Bound { field: "lost", gate: 0.0, target: 0.0 },
            Bound { field: "double", gate: 0.0, target: 0.0 },
        ],
    },
    Row {
        id: "M1",
        what: "idle MQTT sessions: memory each; CPU of a core at 10,000",
        bounds: &[
            Bound { field: "pss_bytes", gate: 16_384.0, target: 10_240.0 },
            Bound { field: "idle_percent", gate: 1.5, target: 0.5 },
        ],
    },
    Row {
        id: "M2",
        what: "baseline to a connected device until its report is stored; with its fetch",
        bounds: &[
            Bound { field: "session_cpu_us", gate: 60.0, target: 30.0 },
            Bound { field: "cpu_us", gate: 60.0, target: 30.0 },
        ],
    },
    Row {
        id: "M3",
        what: "revocation durable to session closed, to its CRL fetched; 20 k against 1 k revoked",
        bounds: &[
            Bound { field: "closed_ms", gate: 50.0, target: 5.0 },
            Bound { field: "crl_ms", gate: 100.0, target: 100.0 },
            Bound { field: "growth", gate: 1.5, target: 1.15 },
        ],
    },
    Row {
        id: "A1",
        what: "agent: binary; resident while enrolling, connected; wake-ups",
        bounds: &[
            Bound { field: "binary_bytes", gate: 6_000_000.0, target: 4_000_000.0 },
            Bound { field: "rss_bytes", gate: 10_000_000.0, target: 6_000_000.0 },
            Bound { field: "connected_rss_bytes", gate: 10_000_000.0, target: 6_000_000.0 },
            Bound { field: "wakeups_a_minute", gate: 2.0, target: 2.0 },
        ],
    },
];

/// How a row stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Target,
    Gate,
    Missed,
    /// The generator, not the server, set the pace: the figure proves nothing.
    GeneratorBound,
    NotMeasured,
}

impl Verdict {
    fn as_str(self) -> &'static str {
        match self {
            Self::Target => "target met",
            Self::Gate => "gate met",
            Self::Missed => "gate missed",
            Self::GeneratorBound => "generator-bound",
            Self::NotMeasured => "not measured",
        }
    }

    fn is_green(self) -> bool {
        matches!(self, Self::Target | Self::Gate)
    }
}

/// What is asked for.
#[derive(Debug, Default)]
struct Asked {
    /// Rows, in the order of the table; all of them when nobody named any.
    rows: Vec<&'static Row>,
    /// Where the report goes.
    json: Option<PathBuf>,
}

impl Asked {
    fn read(arguments: &[String]) -> Option<Self> {
        let (mut names, mut json) = (Vec::new(), None);
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            if word == "--json" {
                json = Some(PathBuf::from(words.next()?));
            } else {
                names.push(ROWS.iter().find(|row| row.id.eq_ignore_ascii_case(word))?.id);
            }
        }
        let rows = ROWS.iter().filter(|row| names.is_empty() || names.contains(&row.id)).collect();
        Some(Self { rows, json })
    }
}

/// Measures, judges, prints; writes the file that `--json` names.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<(), Failure> {
    let Some(asked) = Asked::read(arguments) else {
        return Err(Failure::Usage { text: USAGE.to_owned() });
    };
    packages::ensure()?;
    packages::ensure_peers()?;
    let (conditions, measured) = measure(workspace, &asked.rows)?;
    let (rows, green) = judge(&asked.rows, &measured);
    print_table(&asked.rows, &rows);
    if let Some(file) = asked.json {
        let report = json!({ "conditions": conditions, "rows": rows });
        std::fs::write(&file, format!("{report:#}\n")).map_err(Failure::file(&file))?;
    }
    if green {
        return Ok(());
    }
    Err(Failure::red(
        "a gate is missed, or a row was not measured",
        "find the reason, and write it beside the figure in docs/performance.md",
    ))
}

/// Builds what is measured, in the profiles that are shipped, and runs every program that measures one of `wanted`.
fn measure(workspace: &Workspace, wanted: &[&Row]) -> Result<(Value, Vec<Value>), Failure> {
    cargo(workspace, &["build", "--locked", "--package", "muster-agent", "--profile", "agent"], &[])?;
    let mut build = vec!["build", "--locked", "--workspace", "--release", "--bin", "muster"];
    build.extend(PROGRAMS.iter().flat_map(|(program, _)| ["--bench", program]));
    cargo(workspace, &build, &[])?;
    let mut conditions = machine(workspace);
    let mut measured = Vec::new();
    for (program, rows) in PROGRAMS {
        let rows: Vec<&str> =
            rows.iter().copied().filter(|id| wanted.iter().any(|row| row.id == *id)).collect();
        if rows.is_empty() {
            continue;
        }
        let file = workspace.target.join(format!("bench-{program}.json"));
        // What is not measured now must not be taken from then.
        drop(std::fs::remove_file(&file));
        let environment = [
            ("MUSTER_BENCH_JSON", file.clone()),
            ("MUSTER_BENCH_ONLY", rows.join(",").into()),
            ("MUSTER_BIN", workspace.target.join("release/muster")),
            ("MUSTER_AGENT_BIN", workspace.target.join("agent/muster-agent")),
            ("MUSTER_REPOSITORY", workspace.root.clone()),
        ];
        // The rows that it did not come to are red; the others need not suffer for them.
        if let Err(failure) =
            cargo(workspace, &["bench", "--locked", "--workspace", "--bench", program], &environment)
        {
            eprintln!("{failure}");
        }
        if file.exists() {
            let (more, rows) = read(&file)?;
            conditions.extend(more);
            measured.extend(rows);
        }
    }
    Ok((conditions.into(), measured))
}

fn read(file: &Path) -> Result<(Map<String, Value>, Vec<Value>), Failure> {
    let text = std::fs::read_to_string(file).map_err(Failure::file(file))?;
    let mut report: Value = serde_json::from_str(&text).map_err(|cause| {
        Failure::red(format!("{}: {cause}", file.display()), "mend the program in tests/benches")
    })?;
    let conditions = report.get_mut("conditions").and_then(Value::as_object_mut).map(std::mem::take);
    let rows = report.get_mut("rows").and_then(Value::as_array_mut).map(std::mem::take);
    Ok((conditions.unwrap_or_default(), rows.unwrap_or_default()))
}

/// Every one of `wanted` with gate, target and verdict; whether all of them are green.
fn judge(wanted: &[&Row], measured: &[Value]) -> (Vec<Value>, bool) {
    let mut green = true;
    let mut rows = Vec::new();
    for row in wanted {
        let found = measured.iter().find(|found| found.get("id").and_then(Value::as_str) == Some(row.id));
        let verdict = found.map_or(Verdict::NotMeasured, |found| verdict(row, found));
        green &= verdict.is_green();
        let mut judged = json!({ "id": row.id, "cpu_us": null, "wall_ms": null, "fsyncs_per_op": null });
        if let (Some(judged), Some(found)) = (judged.as_object_mut(), found.and_then(Value::as_object)) {
            judged.extend(found.clone());
        }
        if let Some(judged) = judged.as_object_mut() {
            judged.insert("what".into(), row.what.into());
            judged.insert("gate".into(), bounds(row, |bound| bound.gate));
            judged.insert("target".into(), bounds(row, |bound| bound.target));
            judged.insert("verdict".into(), verdict.as_str().into());
        }
        rows.push(judged);
    }
    (rows, green)
}

fn verdict(row: &Row, found: &Value) -> Verdict {
    if found.get("generator_bound").and_then(Value::as_bool) == Some(true) {
        return Verdict::GeneratorBound;
    }
    let mut worst = Verdict::Target;
    for bound in row.bounds {
        let Some(figure) = found.get(bound.field).and_then(Value::as_f64) else {
            return Verdict::NotMeasured;
        };
        if figure > bound.gate {
            worst = Verdict::Missed;
        } else if figure > bound.target && worst == Verdict::Target {
            worst = Verdict::Gate;
        }
    }
    worst
}

fn bounds(row: &Row, which: fn(&Bound) -> f64) -> Value {
    row.bounds
        .iter()
        .map(|bound| (bound.field.to_owned(), Value::from(which(bound))))
        .collect::<Map<_, _>>()
        .into()
}

fn print_table(wanted: &[&Row], rows: &[Value]) {
    println!(
        "{:<3} {:<20} {:>12} {:>12} {:>12}  {:<15} what",
        "", "figure", "measured", "gate", "target", "verdict"
    );
    for (row, judged) in wanted.iter().zip(rows) {
        let verdict = judged.get("verdict").and_then(Value::as_str).unwrap_or_default();
        let (mut id, mut what, mut verdict) = (row.id, row.what, verdict);
        for bound in row.bounds {
            let figure = judged.get(bound.field).and_then(Value::as_f64).map_or("-".to_owned(), number);
            let (gate, target) = (number(bound.gate), number(bound.target));
            println!(
                "{id:<3} {:<20} {figure:>12} {gate:>12} {target:>12}  {verdict:<15} {what}",
                bound.field
            );
            (id, what, verdict) = ("", "", "");
        }
        for (name, figure) in beside(row, judged) {
            println!("{id:<3} {name:<20} {figure:>12}");
        }
    }
}

/// What else was measured, and what was measured of a peer: shown, not judged.
fn beside(row: &Row, judged: &Value) -> Vec<(String, String)> {
    let mut shown = Vec::new();
    let is_judged = |name: &str| row.bounds.iter().any(|bound| bound.field == name);
    for (name, value) in judged.as_object().into_iter().flatten() {
        if is_judged(name) || ["id", "what", "gate", "target", "verdict"].contains(&name.as_str()) {
            continue;
        }
        match value {
            Value::Number(figure) => {
                shown.extend(figure.as_f64().map(|figure| (name.clone(), number(figure))));
            }
            Value::String(text) => shown.push((name.clone(), text.clone())),
            Value::Object(inner) => shown.extend(
                inner
                    .iter()
                    .filter_map(|(field, value)| Some((format!("{name}: {field}"), number(value.as_f64()?)))),
            ),
            Value::Null | Value::Bool(_) | Value::Array(_) => {}
        }
    }
    shown
}

fn number(figure: f64) -> String {
    if figure >= 1000.0 { format!("{figure:.0}") } else { format!("{figure:.3}") }
}

/// What the figures were taken on.
fn machine(workspace: &Workspace) -> Map<String, Value> {
    let file = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let said = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).current_dir(&workspace.root).output().ok();
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
    };
    let processor = file("/proc/cpuinfo");
    let model = processor.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let facts = [
        ("cpu", model.trim_start_matches([' ', '\t', ':']).to_owned()),
        ("cores", std::thread::available_parallelism().map_or(0, usize::from).to_string()),
        ("kernel", file("/proc/sys/kernel/osrelease").trim().to_owned()),
        ("load_before", file("/proc/loadavg").split_whitespace().take(3).collect::<Vec<_>>().join(" ")),
        ("rustc", said("rustc", &["--version"])),
        ("commit", said("git", &["rev-parse", "--short", "HEAD"])),
        ("disk", said("df", &["--output=fstype,source", "."]).lines().last().unwrap_or_default().to_owned()),
    ];
    facts.into_iter().map(|(name, fact)| (name.to_owned(), fact.into())).collect()
}

fn cargo(workspace: &Workspace, arguments: &[&str], environment: &[(&str, PathBuf)]) -> Result<(), Failure> {
    let mut command = workspace.cargo_with(arguments);
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    let status = command.status().map_err(|cause| Failure::Spawn { program: "cargo".into(), cause })?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::red(format!("cargo {} failed", arguments.join(" ")), "read the first error above"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<&'static Row> {
        ROWS.iter().collect()
    }

    fn verdict_of(row: &Value) -> String {
        let (rows, _) = judge(&all(), std::slice::from_ref(row));
        let found = rows.iter().find(|found| found["id"] == row["id"]).unwrap();
        found["verdict"].as_str().unwrap().to_owned()
    }

    fn asked(words: &[&str]) -> Option<Vec<&'static str>> {
        let words: Vec<String> = words.iter().map(ToString::to_string).collect();
        Some(Asked::read(&words)?.rows.into_iter().map(|row| row.id).collect())
    }

    #[test]
    fn rows_are_asked_for_by_name() {
        assert_eq!(asked(&["m1", "--json", "file", "E3"]), Some(vec!["E3", "M1"]));
        assert_eq!(asked(&[]).map(|rows| rows.len()), Some(ROWS.len()));
        for wrong in [&["E9"][..], &["--json"], &["--quick"]] {
            assert_eq!(asked(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn every_row_is_measured_by_one_program() {
        for row in ROWS {
            let measured = PROGRAMS.iter().filter(|(_, rows)| rows.contains(&row.id)).count();
            assert_eq!(measured, 1, "{}", row.id);
        }
    }

    #[test]
    fn the_worst_figure_of_a_row_decides() {
        for (cpu, fsyncs, expected) in [
            (300.0, 0.03, "target met"),
            (300.1, 0.03, "gate met"),
            (450.0, 0.10, "gate met"),
            (450.1, 0.03, "gate missed"),
            (100.0, 0.11, "gate missed"),
        ] {
            assert_eq!(verdict_of(&json!({ "id": "E1", "cpu_us": cpu, "fsyncs_per_op": fsyncs })), expected);
        }
    }

    #[test]
    fn a_figure_that_nobody_measured_is_no_success() {
        assert_eq!(verdict_of(&json!({ "id": "E1", "cpu_us": 1.0 })), "not measured");
        assert_eq!(judge(&all(), &[]).0[0]["verdict"], "not measured");
        assert!(!judge(&all(), &[]).1);
    }

    #[test]
    fn a_generator_that_set_the_pace_proves_nothing() {
        assert_eq!(
            verdict_of(&json!({ "id": "E2", "cpu_us": 1.0, "generator_bound": true })),
            "generator-bound"
        );
    }

    #[test]
    fn every_row_has_the_pinned_fields() {
        let measured: Vec<Value> = ROWS
            .iter()
            .map(|row| {
                let mut figures: Map<String, Value> =
                    row.bounds.iter().map(|bound| (bound.field.to_owned(), bound.gate.into())).collect();
                figures.insert("id".into(), row.id.into());
                figures.into()
            })
            .collect();
        let (rows, green) = judge(&all(), &measured);
        assert!(green);
        for row in &rows {
            for field in ["id", "cpu_us", "wall_ms", "fsyncs_per_op", "gate", "target", "verdict"] {
                assert!(row.get(field).is_some(), "{field} of {row}");
            }
        }
    }

    #[test]
    fn what_stands_beside_a_row_is_shown_and_not_judged() {
        let row = json!({ "id": "M1", "pss_bytes": 1.0, "idle_percent": 0.1, "mosquitto": { "pss_bytes": 25_000 } });
        let rows = all().into_iter().filter(|row| row.id == "M1").collect::<Vec<_>>();
        let (judged, green) = judge(&rows, &[row]);
        assert!(green);
        assert_eq!(beside(rows[0], &judged[0]), [("mosquitto: pss_bytes".to_owned(), "25000".to_owned())]);
    }
}
