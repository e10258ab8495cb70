//! A maker of clients reads the API's description: what the server says of itself is what the repository keeps.

use muster_tests::{Server, Tls, repository};

#[tokio::test(flavor = "multi_thread")]
async fn the_api_describes_itself_as_docs_openapi_json_does() {
    let server = Server::start().await;
    let mut door = Tls::anonymous(&server).connect(&server.endpoints().admin).await.expect("a connection");
    let answer = door.get("/v1/openapi.json").await.expect("an answer");
    assert_eq!(answer.status, 200);
    let mut said = serde_json::to_string_pretty(&answer.json()).unwrap();
    said.push('\n');

    let golden = repository().join("docs/openapi.json");
    if std::env::var_os("MUSTER_BLESS").is_some() {
        std::fs::write(&golden, &said).unwrap();
    }
    let kept = std::fs::read_to_string(&golden).unwrap_or_default();
    if let Some((line, (is, was))) =
        said.lines().zip(kept.lines()).enumerate().find(|(_, (is, was))| is != was)
    {
        panic!(
            "the API differs from docs/openapi.json at line {}:\n  was {was}\n  is  {is}\n\
             If that is meant: `MUSTER_BLESS=1 cargo xtask test --stories openapi`, and say it in the changelog.",
            line + 1
        );
    }
    assert_eq!(said.len(), kept.len(), "docs/openapi.json is missing, or one ends before the other");
}
