//! `perftools.profiles` of pprof's `proto/profile.proto`: what is written of it, by hand, as building it from
//! the file would need protoc.

/// `Profile`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Profile {
    /// What each of [`Sample::value`] is.
    #[prost(message, repeated, tag = "1")]
    pub(crate) sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) sample: Vec<Sample>,
    /// The first is taken for the main binary.
    #[prost(message, repeated, tag = "3")]
    pub(crate) mapping: Vec<Mapping>,
    #[prost(message, repeated, tag = "4")]
    pub(crate) location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    pub(crate) function: Vec<Function>,
    /// The first is "".
    #[prost(string, repeated, tag = "6")]
    pub(crate) string_table: Vec<String>,
    /// Nanoseconds since the epoch; 0 is unknown.
    #[prost(int64, tag = "9")]
    pub(crate) time_nanos: i64,
    #[prost(int64, tag = "10")]
    pub(crate) duration_nanos: i64,
    #[prost(message, optional, tag = "11")]
    pub(crate) period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    pub(crate) period: i64,
    /// Strings.
    #[prost(int64, repeated, tag = "13")]
    pub(crate) comment: Vec<i64>,
    /// A string: the [`ValueType::name`] that is shown when none is asked for.
    #[prost(int64, tag = "14")]
    pub(crate) default_sample_type: i64,
}

/// `ValueType`, of two strings.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct ValueType {
    /// Its field `type`.
    #[prost(int64, tag = "1")]
    pub(crate) name: i64,
    #[prost(int64, tag = "2")]
    pub(crate) unit: i64,
}

/// `Sample`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Sample {
    /// [`Location::id`]s, leaf first.
    #[prost(uint64, repeated, tag = "1")]
    pub(crate) location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    pub(crate) value: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) label: Vec<Label>,
}

/// `Label`: a string or a number.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct Label {
    #[prost(int64, tag = "1")]
    pub(crate) key: i64,
    /// A string; 0 for a number.
    #[prost(int64, tag = "2")]
    pub(crate) str: i64,
    #[prost(int64, tag = "3")]
    pub(crate) num: i64,
}

/// `Mapping`: where functions come from.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct Mapping {
    /// From 1 on.
    #[prost(uint64, tag = "1")]
    pub(crate) id: u64,
    /// A string.
    #[prost(int64, tag = "5")]
    pub(crate) filename: i64,
    /// Whether names are known, so that no tool looks for them.
    #[prost(bool, tag = "7")]
    pub(crate) has_functions: bool,
}

/// `Location`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Location {
    /// From 1 on.
    #[prost(uint64, tag = "1")]
    pub(crate) id: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) mapping_id: u64,
    #[prost(message, repeated, tag = "4")]
    pub(crate) line: Vec<Line>,
}

/// `Line`.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct Line {
    #[prost(uint64, tag = "1")]
    pub(crate) function_id: u64,
}

/// `Function`.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct Function {
    /// From 1 on.
    #[prost(uint64, tag = "1")]
    pub(crate) id: u64,
    /// A string.
    #[prost(int64, tag = "2")]
    pub(crate) name: i64,
    /// A string.
    #[prost(int64, tag = "3")]
    pub(crate) system_name: i64,
}
