//! Metrics in Prometheus' text format, and the OpenAPI document.

use super::problem::HttpError;
use super::routes::{Ctx, Doc, Routes};
use crate::app::{Figure, Value};
use crate::domain::policy::act;
use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, Method, StatusCode, header};
use std::fmt::Write as _;

pub(super) fn routes(routes: Routes) -> Routes {
    routes.on(Method::GET, "/metrics", Doc::raw("Metrics, Prometheus text format.", 0), metrics).on(
        Method::GET,
        "/v1/openapi.json",
        Doc::raw("This API, OpenAPI 3.1.", 0),
        openapi,
    )
}

async fn openapi(ctx: Ctx<act::ReadOpenApi>) -> Result<Response, HttpError> {
    super::json(StatusCode::OK, &super::openapi::document(ctx.app))
}

async fn metrics(ctx: Ctx<act::ReadMetrics>) -> Result<Response, HttpError> {
    let mut response = Response::new(Body::from(text(&ctx.app.figures())));
    let media_type = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, media_type);
    Ok(response)
}

fn text(figures: &[Figure]) -> String {
    let mut out = String::new();
    for Figure { name, help, value } in figures {
        let kind = match value {
            Value::Counter(_) => "counter",
            Value::Gauge(_) => "gauge",
            Value::Histogram { .. } => "histogram",
        };
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        let _ = match value {
            Value::Counter(value) | Value::Gauge(value) => writeln!(out, "{name} {value}"),
            Value::Histogram { buckets, count, sum } => {
                for (bound, at_most) in buckets {
                    let _ = writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {at_most}");
                }
                writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {count}\n{name}_sum {sum}\n{name}_count {count}")
            }
        };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_has_its_buckets_its_sum_and_its_count() {
        let value = Value::Histogram { buckets: vec![(1, 2), (5, 3)], count: 4, sum: 11 };
        let text = text(&[Figure { name: "sizes", help: "Sizes.", value }]);
        let lines: Vec<_> = text.lines().skip(2).collect();
        let expected =
            ["sizes_bucket{le=\"1\"} 2", "sizes_bucket{le=\"5\"} 3", "sizes_bucket{le=\"+Inf\"} 4"];
        assert_eq!(lines[..3], expected);
        assert_eq!(lines[3..], ["sizes_sum 11", "sizes_count 4"]);
    }
}
