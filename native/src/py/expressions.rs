//! Regular expressions of clients.

use pyo3::prelude::*;
use regex_lite::{Regex, RegexBuilder};

use crate::error::{Error, Result};

/// Bytes of a compiled expression: with those of a name, the steps of a search.
const LARGEST: usize = 64 << 10;

/// A regular expression in Go's syntax. A search takes time in proportion to expression and text.
#[pyclass(frozen)]
#[derive(Debug)]
pub struct Expression(Regex);

#[pymethods]
impl Expression {
    #[new]
    fn new(text: &str) -> Result<Self> {
        let built = RegexBuilder::new(text).size_limit(LARGEST).build();
        built.map(Self).map_err(|error| Error::Invalid(error.to_string()))
    }

    fn found_in(&self, text: &str) -> bool {
        self.0.is_match(text)
    }
}
