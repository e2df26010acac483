//! Commands from standard input, answers to standard output.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;

use crate::{Error, Result};

/// A command is far shorter; what is longer is no command and is thrown away.
const LINE_LIMIT: usize = 4096;

/// Whether more commands may come.
#[derive(PartialEq, Eq)]
pub enum Input {
    /// Yes.
    Open,
    /// No: the end of the input.
    Ended,
}

/// Standard input, line by line.
pub struct Terminal {
    /// Not `std::io::Stdin`: that one reads ahead, and ppoll would not see what it holds.
    input: File,
    line: Vec<u8>,
    too_long: bool,
}

impl Terminal {
    /// Takes standard input over.
    pub fn open() -> Result<Self> {
        let input =
            std::io::stdin().as_fd().try_clone_to_owned().map_err(|error| Error::io("standard input", error))?;
        Ok(Self { input: File::from(input), line: Vec::new(), too_long: false })
    }

    /// Has the commands that have arrived answered, one line each. The caller has seen that a read will not block.
    pub fn read(&mut self, mut answer: impl FnMut(&str) -> String) -> Result<Input> {
        let mut chunk = [0; 1024];
        let len = match self.input.read(&mut chunk) {
            Ok(0) => return Ok(Input::Ended),
            Ok(len) => len,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return Ok(Input::Open);
            }
            Err(error) => return Err(Error::io("standard input", error)),
        };
        for byte in chunk.iter().take(len) {
            match byte {
                b'\n' => {
                    let line = std::mem::take(&mut self.line);
                    let too_long = std::mem::take(&mut self.too_long);
                    let text = if too_long { "(too long)".into() } else { String::from_utf8_lossy(&line) };
                    print(&answer(text.trim()))?;
                }
                byte if self.line.len() < LINE_LIMIT => self.line.push(*byte),
                _ => self.too_long = true,
            }
        }
        Ok(Input::Open)
    }
}

/// Writes one line.
pub fn print(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(|error| Error::io("standard output", error))
}
