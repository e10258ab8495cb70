//! A person or a clock is wrong: one clear sentence, the documented exit code, and no token is spent on it.

use muster_tests::faults::at_time;
use muster_tests::{Agent, Launch, Minted, Server, Site, agent_program, run, server_program};
use std::net::TcpListener;

/// The token is still good, and makes one device.
async fn is_unspent(server: &Server, minted: &Minted) {
    assert_eq!(server.cli(&["token", "show", &minted.id]).await["state"], "open");
    let before = server.devices().await.len();
    let agent = Agent::new();
    let _ = agent.enroll(&minted.enrollment).await.ok();
    assert_eq!(server.devices().await.len(), before + 1);
}

/// The enrolment string with the value of `name` replaced by one of the same form.
fn with_another(enrollment: &str, name: &str) -> String {
    let (head, tail) = enrollment.split_once(&format!("{name}=")).expect("the string has it");
    let end = tail.find('&').unwrap_or(tail.len());
    let (value, rest) = tail.split_at(end);
    let other = if value.starts_with('A') { "B" } else { "A" };
    format!("{head}{name}={other}{}{rest}", &value[1..])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_pin_is_refused_before_the_token_is_shown_to_anybody() {
    let server = Server::start().await;
    let minted = server.mint("laptop-linux").await;
    for name in ["ca", "auth"] {
        let run = Agent::new().enroll(&with_another(&minted.enrollment, name)).await.exits(3);
        let _ = run.problem();
    }
    is_unspent(&server, &minted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_used_a_revoked_and_an_expired_token_are_one_refusal() {
    let site = Site::empty();
    let _ = site.init(&at_time("-2d"), &["--solo"]).await.ok();
    let server = Server::on(site, at_time("-25h")).await;
    let expired = server.mint_with(&["--profile", "laptop-linux", "--ttl", "1h"]).await.remove(0);
    let server = server.stop().await.serve().await;

    let (used, revoked) = (server.mint("laptop-linux").await, server.mint("laptop-linux").await);
    let _ = Agent::new().enroll(&used.enrollment).await.ok();
    let _ = server.try_cli(&["token", "revoke", &revoked.id, "--yes"]).await.ok();
    let port = |enrollment: &str| {
        let (_, rest) = enrollment.split_once("localhost:").expect("a host and a port");
        rest.split_once('/').expect("a token follows").0.to_owned()
    };
    let moved = expired.enrollment.replace(&port(&expired.enrollment), &port(&used.enrollment));
    let mut said = Vec::new();
    for enrollment in [&used.enrollment, &revoked.enrollment, &moved] {
        let run = Agent::new().enroll(enrollment).await.exits(3);
        let problem = run.problem();
        assert_eq!(problem["code"], "token_refused", "{problem}");
        said.push((problem["title"].clone(), problem["detail"].clone(), problem["remedy"].clone()));
    }
    assert!(said.iter().all(|one| *one == said[0]), "nobody learns which: {said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_a_day_late_is_said_to_be_and_costs_no_token() {
    let server = Server::start().await;
    let minted = server.mint("laptop-linux").await;
    let late = Agent::under(at_time("-1d"));
    let run = late.enroll_with(&minted.enrollment, &["--wait", "0"]).await;
    assert_ne!(run.code, Some(0), "{run:?}");
    assert!(run.problem().to_string().contains("clock"), "{}", run.stderr);
    is_unspent(&server, &minted).await;

    let minted = server.mint("laptop-linux").await;
    let mut early = Agent::under(at_time("+1d"));
    let _ = early.enroll(&minted.enrollment).await.ok();
    early.relaunch(Launch::plain());
    let _ = early.renew().await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_clock_is_a_day_early_is_noticed_by_the_device_and_costs_no_token() {
    let server = Server::start().await;
    let minted = server.mint_with(&["--profile", "laptop-linux", "--ttl", "7d"]).await.remove(0);
    let server = Server::on(server.stop().await, at_time("+1d")).await;
    let port = server.endpoints().device.rsplit_once(':').expect("a port").1.trim_end_matches('/').to_owned();
    let (head, rest) = minted.enrollment.split_once("localhost:").expect("a host and a port");
    let (_, token) = rest.split_once('/').expect("a token follows");
    let moved = format!("{head}localhost:{port}/{token}");
    let run = Agent::new().enroll_with(&moved, &["--wait", "0"]).await;
    assert_ne!(run.code, Some(0), "{run:?}");
    assert!(run.problem().to_string().contains("clock"), "{}", run.stderr);

    let server = server.stop().await.serve().await;
    assert_eq!(server.cli(&["token", "show", &minted.id]).await["state"], "open");
    server.verify_audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_there_is_unreachable() {
    let server = Server::start().await;
    let minted = server.mint("laptop-linux").await;
    let site = server.stop().await;
    let run = Agent::new().enroll_with(&minted.enrollment, &["--wait", "0"]).await.exits(5);
    let _ = run.problem();
    let run = site.muster(&Launch::plain(), &["device", "list"]).await.exits(5);
    let _ = run.problem();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_at_the_wrong_server_is_refused_by_its_pin() {
    let (ours, theirs) = (Server::start().await, Server::start().await);
    let credential = ours.site().data_dir().join("admin.credential").display().to_string();
    let address = theirs.endpoints().admin.clone();
    let run = ours.try_cli(&["device", "list", "--server", &address, "--credential", &credential]).await;
    let _ = run.exits(3).problem();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_exist_is_a_wrong_word_or_not_found() {
    let server = Server::start().await;
    let run = server.try_cli(&["token", "create", "--profile", "toaster"]).await.exits(2);
    assert_eq!(run.problem()["code"], "profile_unknown");
    let nobody = "01890000-0000-7000-8000-000000000000";
    let run = server.try_cli(&["device", "show", nobody]).await.exits(4);
    assert_eq!(run.problem()["code"], "not_found");
    let run = server.try_cli(&["device", "revoke", nobody, "--reason", "boredom", "--yes"]).await;
    assert_eq!(run.code, Some(2), "{run:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_fit_nothing_is_a_mistake_and_no_empty_list() {
    let server = Server::start().await;
    for line in [
        "token list --state xx",
        "token list --profile toaster",
        "token list --limit 0",
        "device list --filter state=nope",
        "device list --filter profile=toaster",
        "device list --limit 0",
        "order list --limit 0",
        "audit tail -n 0",
        "token create --profile laptop-linux --ttl 91d",
        "token create --profile laptop-linux --label a=b --label a=c",
    ] {
        let words: Vec<&str> = line.split(' ').collect();
        let _ = server.try_cli(&words).await.exits(2).problem();
    }
    assert!(server.tokens().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_cause_ends_with_one_code_whatever_the_command() {
    let server = Server::start().await;
    let (place, agent) = (tempfile::tempdir().unwrap(), Agent::new());
    let within = |name: &str| place.path().join(name).display().to_string();
    let (missing, full, unmakeable) = (within("missing"), within("full"), "/dev/null/x".to_owned());
    std::fs::create_dir(&full).unwrap();
    std::fs::write(within("full/a.pub"), "").unwrap();
    std::fs::write(within("wrong.toml"), "listen = 7").unwrap();
    let (key, wrong) = (within("full/a.key"), within("wrong.toml"));

    let file_to_read_is_missing: &[&[&str]] = &[
        &["baseline", "set", &missing],
        &["profile", "check", &missing],
        &["observer", "add", "x", "--csr", &missing],
        &["device", "list", "--credential", &missing],
        &["audit", "verify", &full, "--key", &missing],
        &["init", "--public-name", "x", "--approver", &missing],
        &["serve", "--config", &missing],
    ];
    let cannot_be_made: &[&[&str]] = &[
        &["operator", "keygen", &unmakeable],
        &["operator", "add", "x", "--out", &unmakeable],
        &["audit", "export", &unmakeable],
        &["man", &unmakeable],
    ];
    let is_there_already: &[&[&str]] = &[&["operator", "keygen", &key], &["audit", "export", &full]];
    std::fs::write(within("no.credential"), "-----BEGIN PRIVATE KEY-----\n").unwrap();
    let no_credential = within("no.credential");
    let is_wrong: &[&[&str]] =
        &[&["serve", "--config", &wrong], &["device", "list", "--credential", &no_credential]];
    for (lines, code) in
        [(file_to_read_is_missing, 4), (cannot_be_made, 1), (is_there_already, 1), (is_wrong, 2)]
    {
        for line in lines {
            let _ = server.try_cli(line).await.exits(code).problem();
        }
    }
    let founding = |arguments: &[&str]| {
        let words =
            ["init", "--public-name", "x", "--solo", "--json"].into_iter().chain(arguments.iter().copied());
        words.map(str::to_owned).collect::<Vec<_>>()
    };
    for (arguments, code) in
        [(vec!["--data-dir", &unmakeable], 1), (vec!["--data-dir", &missing, "--config", &wrong], 2)]
    {
        let _ =
            run(&Launch::plain(), &server_program(), &founding(&arguments), b"").await.exits(code).problem();
    }
    assert!(!std::path::Path::new(&missing).exists(), "nothing is made with settings that are wrong");
    for words in [&["serve"][..], &["device", "list"], &["doctor"]] {
        let words = [words, &["--json", "--data-dir", &missing]].concat();
        let _ = run(&Launch::plain(), &server_program(), &words, b"").await.exits(4);
    }
    let minted = server.mint("laptop-linux").await;
    let words = ["enroll", "-", "--json", "--state-dir", &unmakeable];
    let _ = run(&Launch::plain(), &agent_program(), &words, minted.enrollment.as_bytes()).await.exits(1);
    assert_eq!(agent.run(&["enroll", &missing]).await.code, Some(4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_baseline_that_another_operator_set_meanwhile_is_not_overwritten() {
    let server = Server::start().await;
    let looked_at = server.cli(&["baseline", "show", "laptop-linux"]).await["generation"].to_string();
    let theirs = server.set_baseline("profile = \"laptop-linux\"\n").await;
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("b.toml");
    std::fs::write(
        &file,
        "profile = \"laptop-linux\"\n[baseline.sysctl]\n\"kernel.kptr_restrict\" = \"2\"\n",
    )
    .unwrap();
    let file = file.display().to_string();
    let run = server.try_cli(&["baseline", "set", &file, "--if-match", &looked_at]).await.exits(3);
    assert!(run.problem()["remedy"].as_str().unwrap().contains("baseline show"), "{}", run.stderr);
    assert_eq!(server.cli(&["baseline", "show", "laptop-linux"]).await["generation"], theirs);
    let _ = server.cli(&["baseline", "set", &file, "--if-match", &theirs.to_string()]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_operator_is_told_of_credentials_and_the_last_one_stays() {
    let server = Server::start().await;
    let place = tempfile::tempdir().unwrap();
    let credential = place.path().join("bob.credential").display().to_string();
    let last = server.try_cli(&["operator", "remove", "admin", "--yes"]).await.exits(3).problem();
    assert!(last["detail"].as_str().unwrap().contains("last operator"), "{last}");
    let _ = server.cli(&["operator", "add", "bob", "--out", &credential]).await;
    let _ = server.cli(&["operator", "remove", "bob", "--yes"]).await;
    let run = server.try_cli(&["device", "list", "--credential", &credential]).await.exits(3);
    assert_eq!(run.problem()["code"], "unauthenticated");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_speaks_something_else_is_not_a_server() {
    let server = Server::start().await;
    let minted = server.mint("laptop-linux").await;
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = mute.local_addr().unwrap().port();
    let closing = std::thread::spawn(move || drop(mute.accept()));
    let (head, rest) = minted.enrollment.split_once("localhost:").expect("a host and a port");
    let (_, token) = rest.split_once('/').expect("a token follows");
    let moved = format!("{head}localhost:{port}/{token}");
    let run = Agent::new().enroll_with(&moved, &["--wait", "0"]).await;
    assert!(matches!(run.code, Some(1 | 5)), "{run:?}");
    let _ = run.problem();
    closing.join().unwrap();
    is_unspent(&server, &minted).await;
}
