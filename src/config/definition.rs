//! What a configuration key is: its type, default, allowed values and meaning, and the macro that makes a typed struct of a table of keys.

use std::path::PathBuf;

use crate::config::listener::Listener;

/// A key's type, numbered as `DescribeConfigs` sends it (`ConfigType` of KIP-569).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Boolean = 1,
    /// Any text.
    String = 2,
    /// A whole number of 32 bits.
    Int = 3,
    /// A whole number of 16 bits.
    Short = 4,
    /// A whole number of 64 bits.
    Long = 5,
    /// A floating point number.
    Double = 6,
    /// Texts separated by commas.
    List = 7,
}

impl Kind {
    /// The word that Kafka's own messages use.
    pub fn kafka_name(self) -> &'static str {
        match self {
            Kind::Boolean => "BOOLEAN",
            Kind::String => "STRING",
            Kind::Int => "INT",
            Kind::Short => "SHORT",
            Kind::Long => "LONG",
            Kind::Double => "DOUBLE",
            Kind::List => "LIST",
        }
    }
}

/// Which of the values of its type a key allows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Valid {
    /// All.
    Any,
    /// Numbers from here up.
    AtLeast(i64),
    /// Numbers from the first to the second, both included.
    Between(i64, i64),
    /// Numbers from the second to the third, or the first.
    OrBetween(i64, i64, i64),
    /// Floating point numbers from 0 to 1.
    Ratio,
}

impl Valid {
    /// What is allowed, to follow 'expected'.
    fn expected(self) -> String {
        match self {
            Valid::Any => "a value of its type".to_owned(),
            Valid::AtLeast(min) => format!("at least {min}"),
            Valid::Between(min, max) => format!("from {min} to {max}"),
            Valid::OrBetween(other, min, max) => format!("{other}, or from {min} to {max}"),
            Valid::Ratio => "from 0 to 1".to_owned(),
        }
    }

    /// Checks a parsed value.
    ///
    /// # Errors
    /// What was expected.
    pub fn check<T: ConfigValue>(self, value: &T) -> Result<(), String> {
        let holds = match (self, value.number()) {
            (Valid::Any, _) | (_, None) => true,
            (Valid::Ratio, _) => value.real().is_none_or(|real| (0.0..=1.0).contains(&real)),
            (Valid::AtLeast(min), Some(number)) => number >= min,
            (Valid::Between(min, max), Some(number)) => (min..=max).contains(&number),
            (Valid::OrBetween(other, min, max), Some(number)) => number == other || (min..=max).contains(&number),
        };
        if holds { Ok(()) } else { Err(self.expected()) }
    }
}

/// A type that a key can have.
pub trait ConfigValue: Sized {
    /// As Kafka names it.
    const KIND: Kind;
    /// Reads a value.
    ///
    /// # Errors
    /// What was expected.
    fn parse(text: &str) -> Result<Self, String>;
    /// Writes a value; `None` where Kafka has null.
    fn print(&self) -> Option<String>;
    /// As a whole number, for range checks.
    fn number(&self) -> Option<i64> {
        None
    }
    /// As a floating point number, for range checks.
    fn real(&self) -> Option<f64> {
        None
    }
}

macro_rules! whole_number {
    ($type:ty, $kind:ident) => {
        impl ConfigValue for $type {
            const KIND: Kind = Kind::$kind;
            fn parse(text: &str) -> Result<Self, String> {
                text.trim().parse().map_err(|_| format!("a whole number from {} to {}", <$type>::MIN, <$type>::MAX))
            }
            fn print(&self) -> Option<String> {
                Some(self.to_string())
            }
            fn number(&self) -> Option<i64> {
                Some(i64::from(*self))
            }
        }
    };
}
whole_number!(i16, Short);
whole_number!(i32, Int);
whole_number!(i64, Long);

impl ConfigValue for bool {
    const KIND: Kind = Kind::Boolean;
    fn parse(text: &str) -> Result<Self, String> {
        match text.trim() {
            text if text.eq_ignore_ascii_case("true") => Ok(true),
            text if text.eq_ignore_ascii_case("false") => Ok(false),
            _ => Err("true or false".to_owned()),
        }
    }
    fn print(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl ConfigValue for f64 {
    const KIND: Kind = Kind::Double;
    fn parse(text: &str) -> Result<Self, String> {
        text.trim().parse().ok().filter(|number: &f64| number.is_finite()).ok_or_else(|| "a number such as 0.5".to_owned())
    }
    fn print(&self) -> Option<String> {
        // Java prints 1 as 1.0.
        Some(format!("{self:?}"))
    }
    fn number(&self) -> Option<i64> {
        Some(*self as i64)
    }
    fn real(&self) -> Option<f64> {
        Some(*self)
    }
}

impl ConfigValue for String {
    const KIND: Kind = Kind::String;
    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.trim().to_owned())
    }
    fn print(&self) -> Option<String> {
        Some(self.clone())
    }
}

/// The parts of a list: separated by commas, without the white space around them.
fn parts(text: &str) -> impl Iterator<Item = &str> {
    let text = text.trim();
    text.split(',').map(str::trim).filter(move |_| !text.is_empty())
}

impl ConfigValue for Vec<String> {
    const KIND: Kind = Kind::List;
    fn parse(text: &str) -> Result<Self, String> {
        Ok(parts(text).map(str::to_owned).collect())
    }
    fn print(&self) -> Option<String> {
        Some(self.join(","))
    }
}

impl ConfigValue for Vec<PathBuf> {
    const KIND: Kind = Kind::List;
    fn parse(text: &str) -> Result<Self, String> {
        let paths: Vec<PathBuf> = parts(text).map(PathBuf::from).collect();
        if paths.is_empty() || paths.iter().any(|path| path.as_os_str().is_empty()) {
            return Err("one or more directories, separated by commas".to_owned());
        }
        Ok(paths)
    }
    fn print(&self) -> Option<String> {
        Some(self.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(","))
    }
}

impl ConfigValue for Vec<Listener> {
    const KIND: Kind = Kind::List;
    fn parse(text: &str) -> Result<Self, String> {
        parts(text).map(str::parse).collect()
    }
    fn print(&self) -> Option<String> {
        Some(self.iter().map(Listener::to_string).collect::<Vec<_>>().join(","))
    }
}

impl<T: ConfigValue> ConfigValue for Option<T> {
    const KIND: Kind = T::KIND;
    /// An empty text is 'not set'.
    fn parse(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() { Ok(None) } else { T::parse(text).map(Some) }
    }
    fn print(&self) -> Option<String> {
        self.as_ref().and_then(T::print)
    }
    fn number(&self) -> Option<i64> {
        self.as_ref().and_then(T::number)
    }
    fn real(&self) -> Option<f64> {
        self.as_ref().and_then(T::real)
    }
}

/// An enum whose values are words.
macro_rules! words {
    ($(#[$meta:meta])* pub enum $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_meta])* $variant,)+ }
        impl $name {
            /// The word that stands for it in a configuration.
            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }
        impl $crate::config::definition::ConfigValue for $name {
            const KIND: $crate::config::definition::Kind = $crate::config::definition::Kind::String;
            fn parse(text: &str) -> Result<Self, String> {
                match text.trim() {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(concat!("one of:" $(, " ", $word)+).to_owned()),
                }
            }
            fn print(&self) -> Option<String> {
                Some(self.word().to_owned())
            }
        }
    };
}
pub(crate) use words;

/// How a broker's key becomes a topic's default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Synonym {
    /// The broker's key.
    pub name: &'static str,
    /// What one unit of it is in the topic's unit.
    pub factor: i64,
}

/// Same unit.
pub(crate) const fn same(name: &'static str) -> Synonym {
    Synonym { name, factor: 1 }
}
/// Minutes for milliseconds.
pub(crate) const fn minutes(name: &'static str) -> Synonym {
    Synonym { name, factor: 60_000 }
}
/// Hours for milliseconds.
pub(crate) const fn hours(name: &'static str) -> Synonym {
    Synonym { name, factor: 3_600_000 }
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Definition {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Its default as text; empty where Kafka has null or an empty list.
    pub default: &'static str,
    /// What it means, in a sentence or two.
    pub doc: &'static str,
    /// Broker keys that set its default, the first to be asked first (topics' keys only).
    pub synonyms: &'static [Synonym],
    /// Never shown to ordinary listings: for tests of Kafka itself.
    pub internal: bool,
}

/// Turns a table of keys into a struct with a field for each, its defaults, and access by key.
macro_rules! config_table {
    (
        $(#[$meta:meta])*
        pub struct $name:ident {
            $( $(#[doc = $doc:literal])+ $field:ident: $type:ty = $key:literal, $default:expr, $valid:expr, [$($synonym:expr),*]; )+
        }
        $( and { $( $(#[$extra_meta:meta])+ pub $extra:ident: $extra_type:ty, )+ } )?
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            $( $(#[doc = $doc])+ #[doc = ""] #[doc = concat!("Key `", $key, "`.")] pub $field: $type, )+
            $( $( $(#[$extra_meta])+ pub $extra: $extra_type, )+ )?
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    $( $field: <$type as $crate::config::definition::ConfigValue>::parse($default).expect(concat!("the default of ", $key)), )+
                    $( $( $extra: Default::default(), )+ )?
                }
            }
        }

        impl $name {
            /// The definition of every key of the table, in its order.
            pub fn table() -> &'static [$crate::config::definition::Definition] {
                const TABLE: &[$crate::config::definition::Definition] = &[
                    $( $crate::config::definition::Definition {
                        name: $key,
                        kind: <$type as $crate::config::definition::ConfigValue>::KIND,
                        default: $default,
                        doc: concat!($($doc),+),
                        synonyms: &[$($synonym),*],
                        internal: $crate::config::definition::is_internal($key),
                    }, )+
                ];
                TABLE
            }

            /// Sets the field of `key`. Nothing changes on an error.
            ///
            /// # Errors
            /// What was expected instead of `text`. A key that is not in the table is a mistake of the caller and changes nothing.
            pub fn set(&mut self, key: &str, text: &str) -> Result<(), String> {
                match key {
                    $( $key => {
                        let value = <$type as $crate::config::definition::ConfigValue>::parse(text)?;
                        $crate::config::definition::Valid::check($valid, &value)?;
                        self.$field = value;
                    } )+
                    _ => return Err(format!("a key that is known, not '{key}'")),
                }
                Ok(())
            }

            /// The value of `key` as text; `None` if it is not set and has no default, or is not in the table.
            pub fn get(&self, key: &str) -> Option<String> {
                match key {
                    $( $key => $crate::config::definition::ConfigValue::print(&self.$field), )+
                    _ => None,
                }
            }
        }
    };
}
pub(crate) use config_table;

/// Whether the key is for tests of Kafka itself and left out of listings.
pub(crate) const fn is_internal(key: &str) -> bool {
    let (key, prefix) = (key.as_bytes(), b"internal.");
    let mut at = 0;
    while at < prefix.len() {
        if at >= key.len() || key[at] != prefix[at] {
            return false;
        }
        at += 1;
    }
    true
}
