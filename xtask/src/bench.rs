//! `cargo xtask bench`: the rows of the performance page that exist, each beside its gate and its target.
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
pub(crate) const USAGE: &str = "usage: cargo xtask bench [--json FILE]";

/// The programs in `tests/benches`.
const PROGRAMS: &[&str] = &["enroll", "agent"];

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
        id: "A1",
        what: "agent: binary, resident memory while enrolling",
        bounds: &[
            Bound { field: "binary_bytes", gate: 6_000_000.0, target: 4_000_000.0 },
            Bound { field: "rss_bytes", gate: 10_000_000.0, target: 6_000_000.0 },
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

/// Measures, judges, prints; writes the file that `--json` names.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<(), Failure> {
    let output = match arguments {
        [] => None,
        [flag, file] if flag == "--json" => Some(PathBuf::from(file)),
        _ => return Err(Failure::Usage { text: USAGE.to_owned() }),
    };
    packages::ensure()?;
    let (conditions, measured) = measure(workspace)?;
    let (rows, green) = judge(&measured);
    print_table(&rows);
    if let Some(file) = output {
        let report = json!({ "conditions": conditions, "rows": rows });
        std::fs::write(&file, format!("{report:#}\n")).map_err(Failure::file(&file))?;
    }
    if green {
        return Ok(());
    }
    Err(Failure::red(
        "a gate is missed, or a row was not measured",
        "find the reason, and write it beside the figure",
    ))
}

/// Builds what is measured, in the profiles that are shipped, and runs every program.
fn measure(workspace: &Workspace) -> Result<(Value, Vec<Value>), Failure> {
    cargo(workspace, &["build", "--locked", "--package", "muster-agent", "--profile", "agent"], &[])?;
    cargo(workspace, &["build", "--locked", "--workspace", "--release", "--bins", "--benches"], &[])?;
    let mut conditions = machine(workspace);
    let mut measured = Vec::new();
    for program in PROGRAMS {
        let file = workspace.target.join(format!("bench-{program}.json"));
        let environment = [
            ("MUSTER_BENCH_JSON", file.clone()),
            ("MUSTER_BIN", workspace.target.join("release/muster")),
            ("MUSTER_AGENT_BIN", workspace.target.join("agent/muster-agent")),
            ("MUSTER_REPOSITORY", workspace.root.clone()),
        ];
        cargo(workspace, &["bench", "--locked", "--workspace", "--bench", program], &environment)?;
        let (more, rows) = read(&file)?;
        conditions.extend(more);
        measured.extend(rows);
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

/// Every row with gate, target and verdict; whether all of them are green.
fn judge(measured: &[Value]) -> (Vec<Value>, bool) {
    let mut green = true;
    let mut rows = Vec::new();
    for row in ROWS {
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

fn print_table(rows: &[Value]) {
    println!(
        "{:<3} {:<16} {:>12} {:>12} {:>12}  {:<15} what",
        "", "figure", "measured", "gate", "target", "verdict"
    );
    for (row, judged) in ROWS.iter().zip(rows) {
        let verdict = judged.get("verdict").and_then(Value::as_str).unwrap_or_default();
        let (mut id, mut what, mut verdict) = (row.id, row.what, verdict);
        for bound in row.bounds {
            let figure = judged.get(bound.field).and_then(Value::as_f64).map_or("-".to_owned(), number);
            let (gate, target) = (number(bound.gate), number(bound.target));
            println!(
                "{id:<3} {:<16} {figure:>12} {gate:>12} {target:>12}  {verdict:<15} {what}",
                bound.field
            );
            (id, what, verdict) = ("", "", "");
        }
        if let Some(wall) = judged.get("wall_ms").and_then(Value::as_f64) {
            println!("{id:<3} {:<16} {:>12}", "wall_ms", number(wall));
        }
    }
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

    fn verdict_of(row: &Value) -> String {
        let (rows, _) = judge(std::slice::from_ref(row));
        let found = rows.iter().find(|found| found["id"] == row["id"]).unwrap();
        found["verdict"].as_str().unwrap().to_owned()
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
        assert_eq!(judge(&[]).0[0]["verdict"], "not measured");
        assert!(!judge(&[]).1);
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
        let (rows, green) = judge(&[
            json!({ "id": "E1", "cpu_us": 290.0, "wall_ms": 1.0, "fsyncs_per_op": 0.02 }),
            json!({ "id": "E2", "cpu_us": 100.0 }),
            json!({ "id": "A1", "binary_bytes": 1_700_000, "rss_bytes": 3_600_000 }),
        ]);
        assert!(green);
        for row in &rows {
            for field in ["id", "cpu_us", "wall_ms", "fsyncs_per_op", "gate", "target", "verdict"] {
                assert!(row.get(field).is_some(), "{field} of {row}");
            }
        }
    }
}
