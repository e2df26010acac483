//! Structured Field Values (RFC 8941): as much as a list of items with parameters needs.

/// A bare item (§3.3). Numbers, byte sequences and booleans are checked for syntax and not kept: no field we read uses them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BareItem {
    Token(String),
    String(String),
    Other,
}

/// An item of a list with its parameters in order; a repeated key keeps its last value (§4.2.3.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) value: BareItem,
    pub(crate) params: Vec<(String, BareItem)>,
}

impl Item {
    pub(crate) fn param(&self, key: &str) -> Option<&BareItem> {
        self.params.iter().find(|(k, _)| k == key).map(|(_, v)| v)
    }
}

/// A list of items (§4.2.1). `None` for anything malformed, an inner list included: the whole field is then to be ignored.
pub(crate) fn parse_list(text: &str) -> Option<Vec<Item>> {
    let mut p = Parser { rest: text.trim_matches(' ') };
    let mut items = Vec::new();
    while !p.rest.is_empty() {
        items.push(p.item()?);
        p.skip(is_ows);
        if p.rest.is_empty() {
            break;
        }
        p.eat(',')?;
        p.skip(is_ows);
        p.peek()?; // a trailing comma is an error
    }
    Some(items)
}

/// Whether `text` can stand as an sf-token (§3.3.4).
pub(crate) fn is_token(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '*') && text.chars().all(is_token_char)
}

/// Appends `text` as an sf-string (§3.3.3): printable ASCII, quotes and backslashes escaped, anything else as `?`.
pub(crate) fn push_string(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            ' '..='~' => out.push(c),
            _ => out.push('?'),
        }
    }
    out.push('"');
}

fn is_ows(c: char) -> bool {
    c == ' ' || c == '\t'
}

fn is_token_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~:/".contains(c)
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn eat(&mut self, c: char) -> Option<()> {
        self.rest = self.rest.strip_prefix(c)?;
        Some(())
    }

    fn skip(&mut self, what: impl Fn(char) -> bool) -> &'a str {
        let (head, tail) = self.rest.split_at(self.rest.find(|c| !what(c)).unwrap_or(self.rest.len()));
        self.rest = tail;
        head
    }

    fn item(&mut self) -> Option<Item> {
        let value = self.bare_item()?;
        let mut params: Vec<(String, BareItem)> = Vec::new();
        while self.eat(';').is_some() {
            self.skip(|c| c == ' ');
            let key = self.key()?;
            let value = if self.eat('=').is_some() { self.bare_item()? } else { BareItem::Other };
            match params.iter_mut().find(|(k, _)| *k == key) {
                Some((_, old)) => *old = value,
                None => params.push((key, value)),
            }
        }
        Some(Item { value, params })
    }

    fn key(&mut self) -> Option<String> {
        self.peek().filter(|c| c.is_ascii_lowercase() || *c == '*')?;
        Some(self.skip(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-.*".contains(c)).to_owned())
    }

    fn bare_item(&mut self) -> Option<BareItem> {
        match self.peek()? {
            '"' => self.string().map(BareItem::String),
            '?' => {
                self.eat('?')?;
                self.eat('0').or_else(|| self.eat('1')).map(|()| BareItem::Other)
            }
            ':' => {
                self.eat(':')?;
                self.skip(|c| c.is_ascii_alphanumeric() || "+/=".contains(c));
                self.eat(':').map(|()| BareItem::Other)
            }
            '-' | '0'..='9' => self.number().map(|()| BareItem::Other),
            c if c.is_ascii_alphabetic() || c == '*' => Some(BareItem::Token(self.skip(is_token_char).to_owned())),
            _ => None,
        }
    }

    fn string(&mut self) -> Option<String> {
        self.eat('"')?;
        let mut out = String::new();
        let mut chars = self.rest.chars();
        loop {
            match chars.next()? {
                '"' => break,
                '\\' => out.push(chars.next().filter(|c| matches!(c, '"' | '\\'))?),
                c @ ' '..='~' => out.push(c),
                _ => return None,
            }
        }
        self.rest = chars.as_str();
        Some(out)
    }

    /// An integer of at most 15 digits or a decimal of at most 12 and 3 (§4.2.4).
    fn number(&mut self) -> Option<()> {
        let _ = self.eat('-');
        let whole = self.skip(|c| c.is_ascii_digit()).len();
        if self.eat('.').is_none() {
            return (1..=15).contains(&whole).then_some(());
        }
        let fraction = self.skip(|c| c.is_ascii_digit()).len();
        ((1..=12).contains(&whole) && (1..=3).contains(&fraction)).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_every_kind_of_item_is_read() {
        let list = parse_list("a;x=1.5;y=?1;z=:aGk=:;w , \"b \\\"\\\\\";k=t/1;k=u,\t-12").unwrap();
        assert_eq!(list.len(), 3);
        assert_eq!(list[0].value, BareItem::Token("a".into()));
        assert_eq!(list[1].value, BareItem::String("b \"\\".into()));
        assert_eq!(list[1].param("k"), Some(&BareItem::Token("u".into())));
        assert_eq!(list[2].value, BareItem::Other);
        assert_eq!(parse_list("").unwrap(), []);
    }

    #[test]
    fn malformed_lists_are_refused_whole() {
        for bad in [
            "a,",
            ",a",
            "a b",
            "\"a",
            "\"a\\x\"",
            "\"\u{e9}\"",
            "a;",
            "a;X=1",
            "a;x=",
            "(a b)",
            "1234567890123456",
            "1.",
            "1.2345",
            "?2",
            ":a",
            "-",
            "a;x=\u{1}",
        ] {
            assert_eq!(parse_list(bad), None, "{bad}");
        }
    }
}
