//! The table of keys: what the README and `muster serve --help` list, and what the reader obeys.

use super::{Advertised, LogFormat, Settings, is_host, variable_of};
use std::net::SocketAddr;
use std::time::Duration;

/// One thing that can be set.
pub struct Key {
    /// Its path in the file, `listen.device` for instance.
    pub name: &'static str,
    /// The value that it has when nobody sets it, as one would write it; empty when there is none.
    pub default: &'static str,
    /// What it does, in one line.
    pub help: &'static str,
    /// Takes the value in text, or says what a right one looks like.
    pub(super) apply: fn(&mut Settings, &str) -> Result<(), String>,
}

impl Key {
    /// The variable that sets it: `MUSTER_LISTEN_DEVICE` for `listen.device`.
    pub fn variable(&self) -> String {
        variable_of(self.name)
    }
}

/// Names of the tables in the file.
pub(super) fn sections() -> impl Iterator<Item = &'static str> {
    let mut sections: Vec<_> = KEYS.iter().filter_map(|key| Some(key.name.split_once('.')?.0)).collect();
    sections.dedup();
    sections.into_iter()
}

/// Every key, in the order in which people want to read about them.
pub const KEYS: &[Key] = &[
    Key {
        name: "public_name",
        default: "",
        help: "host name of this server as devices know it; `muster init --public-name` sets it",
        apply: |s, v| host(v).map(|name| s.public_name = Some(name)),
    },
    Key {
        name: "trust_domain",
        default: "",
        help: "trust domain in every identity (spiffe://…); the public name when left out; fixed at founding",
        apply: |s, v| trust_domain(v).map(|name| s.trust_domain = Some(name)),
    },
    Key {
        name: "listen.device",
        default: "0.0.0.0:8443",
        help: "address for devices: EST and discovery over HTTPS",
        apply: |s, v| address(v).map(|at| s.listen.device = at),
    },
    Key {
        name: "listen.mqtt",
        default: "0.0.0.0:8883",
        help: "address for devices: MQTT over mutual TLS",
        apply: |s, v| address(v).map(|at| s.listen.mqtt = at),
    },
    Key {
        name: "listen.status",
        default: "0.0.0.0:8080",
        help: "address for anyone: CRLs, CA certificates, health, over plain HTTP",
        apply: |s, v| address(v).map(|at| s.listen.status = at),
    },
    Key {
        name: "listen.admin",
        default: "127.0.0.1:9443",
        help: "address for operators: REST and metrics over HTTPS",
        apply: |s, v| address(v).map(|at| s.listen.admin = at),
    },
    Key {
        name: "advertise.device",
        default: "",
        help: "host[:port] of the device listener from outside; burnt into enrolment strings",
        apply: |s, v| advertised(v).map(|name| s.advertise.device = Some(name)),
    },
    Key {
        name: "advertise.mqtt",
        default: "",
        help: "host[:port] of the MQTT listener from outside",
        apply: |s, v| advertised(v).map(|name| s.advertise.mqtt = Some(name)),
    },
    Key {
        name: "advertise.status",
        default: "",
        help: "host[:port] of the status listener from outside; burnt into certificates and CRLs",
        apply: |s, v| advertised(v).map(|name| s.advertise.status = Some(name)),
    },
    Key {
        name: "est.tls12",
        default: "false",
        help: "accept TLS 1.2 on the device listener, for EST clients that know nothing newer",
        apply: |s, v| flag(v).map(|on| s.est.tls12 = on),
    },
    Key {
        name: "limits.wrong_tokens_per_minute",
        default: "30",
        help: "wrong tokens a minute from one address before further wrong ones get 429",
        apply: |s, v| number(v, 1, 100_000).map(|n| s.limits.wrong_tokens_per_minute = n),
    },
    Key {
        name: "limits.device_renewals_per_hour",
        default: "20",
        help: "certificates that one device may renew in an hour before it gets 429; 0 is no limit",
        apply: |s, v| number(v, 0, 100_000).map(|n| s.limits.device_renewals_per_hour = n),
    },
    Key {
        name: "limits.batch_enrolments_per_minute",
        default: "0",
        help: "enrolments a minute with tokens made by one `token create` before further ones get 429; 0 is no limit",
        apply: |s, v| number(v, 0, 10_000_000).map(|n| s.limits.batch_enrolments_per_minute = n),
    },
    Key {
        name: "limits.site_enrolments_per_minute",
        default: "0",
        help: "enrolments a minute at one site before further ones get 429; 0 is no limit",
        apply: |s, v| number(v, 0, 10_000_000).map(|n| s.limits.site_enrolments_per_minute = n),
    },
    Key {
        name: "limits.handshake_s",
        default: "10",
        help: "seconds that a TLS handshake may take, and then each request's head: so it also ends a kept connection on which nothing comes",
        apply: |s, v| seconds(v, 1, 300).map(|d| s.limits.handshake = d),
    },
    Key {
        name: "limits.body_s",
        default: "30",
        help: "seconds that a request's body may take",
        apply: |s, v| seconds(v, 1, 3600).map(|d| s.limits.body = d),
    },
    Key {
        name: "limits.connections",
        default: "20000",
        help: "connections open at once on each listener",
        apply: |s, v| number(v, 1, 1_000_000).map(|n| s.limits.connections = n),
    },
    Key {
        name: "limits.shutdown_s",
        default: "10",
        help: "seconds that open requests get when the server is told to stop",
        apply: |s, v| seconds(v, 0, 600).map(|d| s.limits.shutdown = d),
    },
    Key {
        name: "mqtt.keep_alive_cap_s",
        default: "1200",
        help: "longest MQTT keep-alive in seconds, and that of a device that asks for none; after one and a half times as much silence a session ends",
        apply: |s, v| {
            number(v, 1, u16::MAX.into())
                .map(|n| s.mqtt.keep_alive_cap_s = u16::try_from(n).unwrap_or(u16::MAX))
        },
    },
    Key {
        name: "mqtt.connects_per_minute",
        default: "30",
        help: "MQTT sessions that one device may begin in a minute; past that it is told to come later",
        apply: |s, v| number(v, 1, 1_000_000).map(|n| s.mqtt.connects_per_minute = n),
    },
    Key {
        name: "mqtt.packets_per_second",
        default: "20",
        help: "MQTT packets that one device may send in a second, ten times as many at once; past that it is read more slowly",
        apply: |s, v| number(v, 1, 1_000_000).map(|n| s.mqtt.packets_per_second = n),
    },
    Key {
        name: "mqtt.kib_per_second",
        default: "64",
        help: "KiB that one device may send over MQTT in a second, sixteen times as much at once; past that it is read more slowly",
        apply: |s, v| number(v, 1, 1 << 20).map(|n| s.mqtt.kib_per_second = n),
    },
    Key {
        name: "mqtt.puback_s",
        default: "30",
        help: "seconds that a device has to acknowledge a message before its session ends",
        apply: |s, v| seconds(v, 1, 3600).map(|d| s.mqtt.puback = d),
    },
    Key {
        name: "mqtt.write_s",
        default: "30",
        help: "seconds that writing to a device may make no progress before its session ends",
        apply: |s, v| seconds(v, 1, 3600).map(|d| s.mqtt.write = d),
    },
    Key {
        name: "mqtt.look_s",
        default: "300",
        help: "seconds after which a session looks at what its device should hear although nothing has changed",
        apply: |s, v| seconds(v, 1, 86_400).map(|d| s.mqtt.look = d),
    },
    Key {
        name: "audit.checkpoint_ms",
        default: "1000",
        help: "longest time in milliseconds that an audit entry waits for the checkpoint that covers it",
        apply: |s, v| {
            number(v, 10, 60_000).map(|n| s.audit.checkpoint_interval = Duration::from_millis(n.into()))
        },
    },
    Key {
        name: "audit.checkpoint_entries",
        default: "256",
        help: "audit entries after which a checkpoint does not wait that long",
        apply: |s, v| number(v, 1, 65_536).map(|n| s.audit.checkpoint_entries = n),
    },
    Key {
        name: "posture.history_days",
        default: "30",
        help: "days for which the history of device postures is kept",
        apply: |s, v| number(v, 1, 3_650).map(|n| s.posture.history_days = n),
    },
    Key {
        name: "posture.quarantines_per_hour",
        default: "10",
        help: "devices that posture rules may quarantine in an hour in any case; past this and the next one there is only an alarm",
        apply: |s, v| number(v, 0, 1_000_000).map(|n| s.posture.quarantines_per_hour = n),
    },
    Key {
        name: "posture.quarantines_percent",
        default: "5",
        help: "or so many of a hundred devices, if that is more",
        apply: |s, v| number(v, 0, 100).map(|n| s.posture.quarantines_percent = n),
    },
    Key {
        name: "rails.day_least",
        default: "3",
        help: "devices that may be wiped, revoked, superseded or quarantined by hand in 24 hours in any case",
        apply: |s, v| number(v, 0, 1_000_000).map(|n| s.rails.day_least = n),
    },
    Key {
        name: "rails.day_percent",
        default: "1",
        help: "or so many of a hundred devices that have been active for 30 days, if that is more",
        apply: |s, v| number(v, 0, 100).map(|n| s.rails.day_percent = n),
    },
    Key {
        name: "rails.hour",
        default: "10",
        help: "the same in an hour",
        apply: |s, v| number(v, 0, 1_000_000).map(|n| s.rails.hour = n),
    },
    Key {
        name: "rails.cooling_off_s",
        default: "14400",
        help: "seconds that an act beyond that waits before it may be asked for again",
        apply: |s, v| number(v, 60, 604_800).map(|n| s.rails.cooling_off_s = n),
    },
    Key {
        name: "alarm.webhook",
        default: "",
        help: "https URL that is sent each alarm as JSON by POST, signed in the header muster-signature",
        apply: |s, v| {
            s.alarm.webhook = Some(v.to_owned());
            Ok(())
        },
    },
    Key {
        name: "alarm.secret_file",
        default: "",
        help: "file with the secret, 16 bytes or more, that signs what the webhook is sent (HMAC-SHA-256)",
        apply: |s, v| {
            s.alarm.secret_file = Some(v.into());
            Ok(())
        },
    },
    Key {
        name: "alarm.ca_file",
        default: "/etc/ssl/certs/ca-certificates.crt",
        help: "authorities in PEM to one of which the webhook's certificate must lead",
        apply: |s, v| {
            s.alarm.ca_file = v.into();
            Ok(())
        },
    },
    Key {
        name: "alarm.allow_private",
        default: "false",
        help: "let the webhook be on this machine or in a private network, and be http",
        apply: |s, v| flag(v).map(|on| s.alarm.allow_private = on),
    },
    Key {
        name: "alarm.syslog",
        default: "",
        help: "udp://host:port or the path of a socket that is sent each alarm as a syslog message (RFC 5424)",
        apply: |s, v| {
            s.alarm.syslog = Some(v.to_owned());
            Ok(())
        },
    },
    Key {
        name: "store.cache_mib",
        default: "64",
        help: "cache of the store in MiB; real memory is two to three times as much",
        apply: |s, v| number(v, 8, 65_536).map(|n| s.store.cache_bytes = u64::from(n) << 20),
    },
    Key {
        name: "store.free_space_floor_mib",
        default: "256",
        help: "free disk space in MiB below which new enrolments are refused",
        apply: |s, v| number(v, 0, 1 << 30).map(|n| s.store.free_space_floor_bytes = u64::from(n) << 20),
    },
    Key {
        name: "store.queue",
        default: "4096",
        help: "commits that may wait for the disk before requests get 503",
        apply: |s, v| number(v, 1, 1_048_576).map(|n| s.store.queue = n),
    },
    Key {
        name: "log.format",
        default: "json",
        help: "json, one object a line, or human; the level is MUSTER_LOG, `info` when unset",
        apply: |s, v| log_format(v).map(|format| s.log.format = format),
    },
];

fn address(value: &str) -> Result<SocketAddr, String> {
    value.parse().map_err(|_| {
        "write an IP address and a port, \"0.0.0.0:8443\" or \"[::]:8443\"; host names belong to [advertise], and \
         port 0 takes a free one"
            .to_owned()
    })
}

fn host(value: &str) -> Result<String, String> {
    let bare = value.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(value);
    if is_host(bare) {
        return Ok(bare.to_ascii_lowercase());
    }
    Err("write a DNS name or an IP address, \"muster.example.com\", without scheme, port and path".to_owned())
}

fn advertised(value: &str) -> Result<Advertised, String> {
    let wrong = || "write host or host:port, \"muster.example.com:443\" or \"[2001:db8::1]:443\"".to_owned();
    if let Ok(name) = host(value) {
        return Ok(Advertised { host: name, port: None });
    }
    let (name, port) = value.rsplit_once(':').ok_or_else(wrong)?;
    let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
    Ok(Advertised { host: host(name).map_err(|_| wrong())?, port: Some(port) })
}

fn trust_domain(value: &str) -> Result<String, String> {
    let plain = value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._".contains(&b));
    if plain && (1..=255).contains(&value.len()) {
        return Ok(value.to_owned());
    }
    Err("write 1 to 255 of a-z, 0-9, -, . and _, \"devices.example.com\"".to_owned())
}

fn flag(value: &str) -> Result<bool, String> {
    value.parse().map_err(|_| "write true or false".to_owned())
}

fn number(value: &str, least: u32, most: u32) -> Result<u32, String> {
    let number = value.parse().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| format!("write a whole number from {least} to {most}"))
}

fn seconds(value: &str, least: u32, most: u32) -> Result<Duration, String> {
    number(value, least, most).map(|n| Duration::from_secs(n.into()))
}

fn log_format(value: &str) -> Result<LogFormat, String> {
    match value {
        "json" => Ok(LogFormat::Json),
        "human" => Ok(LogFormat::Human),
        _ => Err("write json or human".to_owned()),
    }
}
