//! The list of the notes: lines with versions. The last writer of a line wins.

use serde::Serialize;

pub(crate) const MAX_LINES: usize = 100;

/// Who wrote something.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Author {
    pub(crate) who: u64,
    pub(crate) name: String,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Line {
    pub(crate) id: u64,
    pub(crate) text: String,
    /// Grows with each change.
    pub(crate) version: u64,
    pub(crate) by: Author,
}

/// What has happened to the list. Each change has the next number, so that a page sees when it has missed one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Change {
    pub(crate) rev: u64,
    pub(crate) by: Author,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) line: Option<Line>,
    /// What was written over by somebody who had not seen it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) replaced: Option<Line>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) removed: Option<u64>,
}

#[derive(Debug, Default, Serialize)]
pub(crate) struct List {
    pub(crate) rev: u64,
    pub(crate) lines: Vec<Line>,
    #[serde(skip)]
    last_id: u64,
}

#[derive(Debug, PartialEq)]
pub(crate) enum NoChange {
    /// Somebody has removed the line.
    NoLine,
    Full,
}

impl List {
    pub(crate) fn add(&mut self, text: String, by: Author) -> Result<Change, NoChange> {
        if self.lines.len() >= MAX_LINES {
            return Err(NoChange::Full);
        }
        self.last_id += 1;
        self.lines.push(Line { id: self.last_id, text, version: 1, by: by.clone() });
        let line = self.lines.last().cloned();
        Ok(Change { line, ..self.next(by) })
    }

    /// Changes a line, of which the writer has seen the version `base`.
    pub(crate) fn change(&mut self, id: u64, text: String, base: u64, by: Author) -> Result<Change, NoChange> {
        let line = self.lines.iter_mut().find(|line| line.id == id).ok_or(NoChange::NoLine)?;
        let is_conflict = line.version > base && line.by.who != by.who && line.text != text;
        let replaced = is_conflict.then(|| line.clone());
        *line = Line { id, text, version: line.version + 1, by: by.clone() };
        let line = Some(line.clone());
        Ok(Change { line, replaced, ..self.next(by) })
    }

    pub(crate) fn remove(&mut self, id: u64, by: Author) -> Result<Change, NoChange> {
        let at = self.lines.iter().position(|line| line.id == id).ok_or(NoChange::NoLine)?;
        self.lines.remove(at);
        Ok(Change { removed: Some(id), ..self.next(by) })
    }

    pub(crate) fn has(&self, id: u64) -> bool {
        self.lines.iter().any(|line| line.id == id)
    }

    fn next(&mut self, by: Author) -> Change {
        self.rev += 1;
        Change { rev: self.rev, by, line: None, replaced: None, removed: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn author(who: u64) -> Author {
        Author { who, name: format!("guest {who}") }
    }

    #[test]
    fn the_last_writer_wins_and_what_a_writer_had_not_seen_is_named() {
        let mut list = List::default();
        let id = list.add("milk".to_owned(), author(1)).unwrap().line.unwrap().id;
        let change = list.change(id, "oat milk".to_owned(), 1, author(1)).unwrap();
        assert_eq!((change.line.unwrap().version, change.replaced), (2, None));
        let change = list.change(id, "soy milk".to_owned(), 1, author(2)).unwrap();
        assert_eq!(change.replaced.unwrap().text, "oat milk");
        assert_eq!((&*list.lines[0].text, list.lines[0].version), ("soy milk", 3));
    }

    #[test]
    fn a_writer_does_not_conflict_with_itself_nor_with_the_same_text() {
        let mut list = List::default();
        let id = list.add("milk".to_owned(), author(1)).unwrap().line.unwrap().id;
        list.change(id, "oat".to_owned(), 1, author(1)).unwrap();
        assert_eq!(list.change(id, "oats".to_owned(), 1, author(1)).unwrap().replaced, None);
        assert_eq!(list.change(id, "oats".to_owned(), 1, author(2)).unwrap().replaced, None);
    }

    #[test]
    fn a_line_that_was_removed_stays_away_and_each_change_has_the_next_number() {
        let mut list = List::default();
        let id = list.add("milk".to_owned(), author(1)).unwrap().line.unwrap().id;
        assert_eq!(list.remove(id, author(2)).unwrap().rev, 2);
        assert_eq!(list.change(id, "oat".to_owned(), 1, author(1)), Err(NoChange::NoLine));
        assert_eq!(list.remove(id, author(1)), Err(NoChange::NoLine));
        let again = list.add("tea".to_owned(), author(1)).unwrap();
        assert_eq!((again.rev, again.line.unwrap().id), (3, id + 1));
    }

    #[test]
    fn the_list_has_a_bound() {
        let mut list = List::default();
        for number in 0..MAX_LINES {
            list.add(number.to_string(), author(1)).unwrap();
        }
        assert_eq!(list.add("more".to_owned(), author(1)), Err(NoChange::Full));
    }
}
