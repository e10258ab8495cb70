//! What the doors have seen since the process started.

use std::sync::atomic::{AtomicU64, Ordering};

/// One count that only rises.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// One more.
    pub fn up(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How many so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counts {
    ($(#[$doc:meta])* $name:ident { $($field:ident = $metric:literal: $help:literal;)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        pub struct $name {
            $(#[doc = $help] pub $field: Count,)+
        }

        impl $name {
            /// Each count with the name and the help of its metric.
            pub fn all(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
                [$(($metric, $help, self.$field.get())),+].into_iter()
            }
        }
    };
}

counts! {
    /// What the observers' bus has seen.
    Bus {
        begun = "muster_bus_sessions_begun_total": "Observers' sessions begun.";
        refused = "muster_bus_sessions_refused_total": "Observers' CONNECTs refused.";
        told = "muster_bus_events_total": "Events published on the observers' bus.";
        lagged = "muster_bus_lagged_total": "Observers cut because they were too slow.";
        misconduct = "muster_bus_misconduct_total": "Observers cut for what they sent.";
        rebuilt = "muster_bus_rebuilt_total": "Times the observers' bus fell silent and was built anew.";
    }
}

counts! {
    /// What the MQTT gate has seen.
    Gate {
        sessions_begun = "muster_gate_sessions_begun_total": "MQTT sessions begun.";
        refused_client_id = "muster_gate_refused_client_id_total": "CONNECTs refused for a client id that is not the certificate's device.";
        refused_status = "muster_gate_refused_status_total": "CONNECTs refused for the status of the certificate.";
        refused_not_ready = "muster_gate_refused_not_ready_total": "CONNECTs refused because the server was not ready.";
        refused_damped = "muster_gate_refused_damped_total": "CONNECTs refused because the device reconnects too often; if this rises, look for two holders of one identity.";
        no_connect = "muster_gate_no_connect_total": "Connections that ended without a proper CONNECT.";
        messages_in = "muster_gate_messages_in_total": "Messages taken from devices.";
        messages_out = "muster_gate_messages_out_total": "Messages sent to devices.";
        slowed = "muster_gate_slowed_total": "Packets after which a device had to wait because it had sent too much.";
        ended_misconduct = "muster_gate_ended_misconduct_total": "Sessions ended because of what the device sent.";
        ended_silent = "muster_gate_ended_silent_total": "Sessions ended for silence, a PUBACK that did not come, or writes that stalled.";
        ended_unavailable = "muster_gate_ended_unavailable_total": "Sessions ended because the store would not take a message.";
    }
}
