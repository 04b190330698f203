//! Tables: columns of names that may be shortened, and of numbers that may not.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use unicode_width::UnicodeWidthStr as _;

use super::layout::shorten;

/// Blanks between columns.
pub(crate) const GAP: usize = 2;
/// Narrowest that a column of names is shortened to.
const NARROWEST: usize = 8;

/// A column, its heading included.
pub(crate) struct Column {
    pub(crate) cells: Vec<String>,
    /// A name, which may be shortened; else a number, which may not.
    pub(crate) name: bool,
}

impl Column {
    pub(crate) fn width(&self) -> usize {
        self.cells.iter().map(|cell| cell.width()).max().unwrap_or(0)
    }

    pub(crate) fn narrow(&mut self, width: usize) {
        for cell in &mut self.cells {
            *cell = shorten(cell, width);
        }
    }
}

/// Lines of the table, the heading first.
pub(crate) fn lay_out(columns: &[Column], rows: usize) -> Vec<String> {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    for line in 0..=rows {
        table.add_row(columns.iter().filter_map(|column| column.cells.get(line)));
    }
    for (i, column) in columns.iter().enumerate() {
        if let Some(laid) = table.column_mut(i) {
            laid.set_padding((0, u16::try_from(GAP).unwrap_or(2)));
            laid.set_cell_alignment(if column.name {
                CellAlignment::Left
            } else {
                CellAlignment::Right
            });
        }
    }
    table.lines().collect()
}

/// Columns of the terminal that `columns` take, with the blanks after them.
pub(crate) fn taken(columns: &[Column]) -> usize {
    columns.iter().map(|column| column.width() + GAP).sum()
}

/// Shortens names, the widest column first, until `columns` take no more than `room`, or each is as
/// narrow as is of any use.
pub(crate) fn squeeze(columns: &mut [Column], room: usize) {
    while taken(columns) > room {
        let names = columns.iter_mut().filter(|column| column.name);
        let Some(widest) = names.max_by_key(|column| column.width()) else {
            break;
        };
        if widest.width() <= NARROWEST {
            break;
        }
        widest.narrow(widest.width() - 1);
    }
}
