//! Macros by which a type declares its encoding: the order of its fields, or the words of its members.

/// Implements [`Cbor`] for a struct: an array of the named fields, in this order.
macro_rules! record {
    ($name:ident { $($field:ident),+ $(,)? }) => {
        impl $crate::cbor::Cbor for $name {
            fn write(&self, out: &mut $crate::cbor::Writer) {
                out.array([$(stringify!($field)),+].len() as u64);
                $($crate::cbor::Cbor::write(&self.$field, out);)+
            }

            fn read(input: &mut $crate::cbor::Reader<'_>) -> Result<Self, $crate::cbor::CborError> {
                input.array([$(stringify!($field)),+].len() as u64)?;
                Ok(Self { $($field: $crate::cbor::Cbor::read(input)?,)+ })
            }
        }
    };
}

/// Implements [`Document`] for a struct: an array of the schema version and the named fields, in this order.
macro_rules! document {
    ($name:ident, $text:literal, $limit:expr, $signed:ident, { $($field:ident),+ $(,)? }) => {
        impl $crate::cbor::Cbor for $name {
            fn write(&self, out: &mut $crate::cbor::Writer) {
                out.array(1 + [$(stringify!($field)),+].len() as u64);
                out.unsigned($crate::cbor::SCHEMA);
                $($crate::cbor::Cbor::write(&self.$field, out);)+
            }

            fn read(input: &mut $crate::cbor::Reader<'_>) -> Result<Self, $crate::cbor::CborError> {
                $crate::cbor::open_document(input, 1 + [$(stringify!($field)),+].len() as u64)?;
                Ok(Self { $($field: $crate::cbor::Cbor::read(input)?,)+ })
            }
        }

        impl $crate::cbor::Document for $name {
            const NAME: &'static str = $text;
            const MAX_BYTES: usize = $limit;
        }

        impl $crate::envelope::$signed for $name {}
    };
}

/// Declares a closed enum whose members are words on the wire, in text, JSON and CBOR alike.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])+ $variant:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$doc])+ $variant,)+
        }

        impl $name {
            /// Every member, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// The member that `text` names.
            pub fn from_word(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$variant),)+ _ => None }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <String as serde::Deserialize>::deserialize(deserializer)?;
                Self::from_word(&text)
                    .ok_or_else(|| serde::de::Error::custom(concat!("unknown ", stringify!($name))))
            }
        }

        impl $crate::cbor::Cbor for $name {
            fn write(&self, out: &mut $crate::cbor::Writer) {
                out.text(self.as_str());
            }

            fn read(input: &mut $crate::cbor::Reader<'_>) -> Result<Self, $crate::cbor::CborError> {
                Self::from_word(input.text()?)
                    .ok_or($crate::cbor::CborError::Value { field: stringify!($name) })
            }
        }
    };
}

pub(crate) use {document, record, words};
