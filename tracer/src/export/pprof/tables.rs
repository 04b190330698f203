//! What a profile says once and refers to by number.

use hashbrown::HashMap;

use super::proto::{Function, Line, Location, Mapping};
use crate::export::frames::{Frame, Kind};

/// Strings, mappings and functions, each once.
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) strings: Vec<String>,
    known: HashMap<String, i64>,
    pub(super) mappings: Vec<Mapping>,
    mapping_ids: HashMap<String, u64>,
    pub(super) functions: Vec<Function>,
    /// One a function: its number and that of the function are the same.
    pub(super) locations: Vec<Location>,
    location_ids: HashMap<(u64, i64), u64>,
}

/// Where functions of the kernel itself are from.
const KERNEL: &str = "[kernel]";
/// Where functions of processes are from.
const USER: &str = "[user]";

impl Default for Tables {
    fn default() -> Self {
        let mut tables = Self {
            strings: Vec::new(),
            known: HashMap::new(),
            mappings: Vec::new(),
            mapping_ids: HashMap::new(),
            functions: Vec::new(),
            locations: Vec::new(),
            location_ids: HashMap::new(),
        };
        tables.string("");
        // First, as it is what tools call the profile's binary.
        tables.mapping(KERNEL);
        tables
    }
}

impl Tables {
    /// The number of a string.
    pub(super) fn string(&mut self, text: &str) -> i64 {
        if let Some(&number) = self.known.get(text) {
            return number;
        }
        // More strings than that do not fit into any memory.
        let number = i64::try_from(self.strings.len()).unwrap_or(0);
        self.strings.push(text.to_owned());
        self.known.insert(text.to_owned(), number);
        number
    }

    fn mapping(&mut self, file: &str) -> u64 {
        if let Some(&id) = self.mapping_ids.get(file) {
            return id;
        }
        let id = self.mappings.len() as u64 + 1;
        let filename = self.string(file);
        self.mappings.push(Mapping { id, filename, has_functions: true });
        self.mapping_ids.insert(file.to_owned(), id);
        id
    }

    /// The number of a function's location.
    pub(super) fn location(&mut self, frame: &Frame) -> u64 {
        let module = frame.name.rfind(" [").and_then(|at| frame.name.get(at + 1..));
        let mapping = match (frame.kind, module) {
            (Kind::User, _) => self.mapping(USER),
            (Kind::Module, Some(module)) => self.mapping(module),
            _ => self.mapping(KERNEL),
        };
        let name = self.string(&frame.name);
        if let Some(&id) = self.location_ids.get(&(mapping, name)) {
            return id;
        }
        let id = self.locations.len() as u64 + 1;
        self.functions.push(Function { id, name, system_name: name });
        let line = vec![Line { function_id: id }];
        self.locations.push(Location { id, mapping_id: mapping, line });
        self.location_ids.insert((mapping, name), id);
        id
    }
}
