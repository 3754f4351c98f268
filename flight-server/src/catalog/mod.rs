//! What survives a restart: tables, views, schemas, functions and actors, in SQLite.
//!
//! Definitions are kept as their users wrote them (SQL text; functions and
//! actors as an encoded spec) in creation order, and replayed in that order when a database
//! is opened. Only one process may use a data directory: it holds a lock file
//! for as long as it lives.

mod data_dir;

use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use rusqlite::{Connection, params};

pub use data_dir::DataDir;

use crate::ServerError;

/// Raised with each change of the tables below.
const FORMAT: i64 = 2;

/// What kind of thing a definition makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectKind {
    Schema,
    Table,
    View,
    Function,
    Actor,
}

impl ObjectKind {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Schema => "schema",
            Self::Table => "table",
            Self::View => "view",
            Self::Function => "function",
            Self::Actor => "actor",
        }
    }

    /// Kinds that cannot have the same name at a time.
    pub(crate) fn sharing_names(self) -> &'static [Self] {
        match self {
            Self::Schema => &[Self::Schema],
            Self::Table | Self::View => &[Self::Table, Self::View],
            Self::Function | Self::Actor => &[Self::Function, Self::Actor],
        }
    }

    fn of(name: &str) -> Option<Self> {
        [
            Self::Schema,
            Self::Table,
            Self::View,
            Self::Function,
            Self::Actor,
        ]
        .into_iter()
        .find(|kind| kind.name() == name)
    }
}

/// One stored definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    pub kind: ObjectKind,
    /// `schema.name` for tables and views, the name alone otherwise.
    pub name: String,
    /// SQL text, or an encoded function spec.
    pub body: Vec<u8>,
    /// Absolute locations of an external table, one a line.
    pub location: Option<String>,
    /// Schema that names without one meant to whoever wrote the text; `None` in
    /// definitions older than format 2, and for functions.
    pub default_schema: Option<String>,
}

/// The stored definitions of a data directory, or of nothing.
#[derive(Debug)]
pub struct Catalog {
    path: PathBuf,
    connection: Mutex<Connection>,
}

impl Catalog {
    /// Opens `catalog.sqlite` in `data_dir`, or a catalog in memory.
    ///
    /// # Errors
    /// [`ServerError::Catalog`] when SQLite refuses, or the file was written by
    /// a newer version.
    pub fn open(data_dir: Option<&Path>) -> Result<Self, ServerError> {
        let path = data_dir.map_or_else(|| PathBuf::from(":memory:"), |d| d.join("catalog.sqlite"));
        let connection = match data_dir {
            Some(_) => Connection::open(&path),
            None => Connection::open_in_memory(),
        };
        let opened = connection.and_then(|mut connection| {
            prepare(&mut connection)?;
            Ok(connection)
        });
        match opened {
            Ok(connection) => Ok(Self {
                path,
                connection: Mutex::new(connection),
            }),
            Err(source) => Err(ServerError::Catalog { path, source }),
        }
    }

    /// Every definition, oldest first.
    ///
    /// # Errors
    /// [`ServerError::Catalog`].
    pub fn all(&self) -> Result<Vec<Definition>, ServerError> {
        self.with(|connection| {
            let mut statement = connection.prepare(
                "SELECT kind, name, body, location, default_schema FROM definition ORDER BY id",
            )?;
            let rows = statement.query_map([], |row| {
                let kind = ObjectKind::of(&row.get::<_, String>(0)?);
                let Some(kind) = kind else {
                    return Ok(None);
                };
                Ok(Some(Definition {
                    kind,
                    name: row.get(1)?,
                    body: row.get(2)?,
                    location: row.get(3)?,
                    default_schema: row.get(4)?,
                }))
            })?;
            rows.filter_map(Result::transpose).collect()
        })
    }

    /// Where the tables lie, all of them.
    ///
    /// # Errors
    /// [`ServerError::Catalog`].
    pub fn locations(&self) -> Result<Vec<String>, ServerError> {
        self.with(|connection| {
            let sql = "SELECT location FROM definition WHERE location IS NOT NULL";
            let mut statement = connection.prepare(sql)?;
            let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
            let texts = rows.collect::<rusqlite::Result<Vec<_>>>()?;
            let lines = texts.iter().flat_map(|text| text.lines());
            Ok(lines.map(str::to_owned).collect())
        })
    }

    /// Stores a definition; one of the same kind and name is replaced, and tables
    /// and views are of one kind in this.
    ///
    /// # Errors
    /// [`ServerError::Catalog`].
    pub fn put(&self, definition: &Definition) -> Result<(), ServerError> {
        self.with(|connection| {
            let transaction = connection.transaction()?;
            for kind in definition.kind.sharing_names() {
                transaction.execute(
                    "DELETE FROM definition WHERE kind = ?1 AND name = ?2",
                    params![kind.name(), definition.name],
                )?;
            }
            transaction.execute(
                "INSERT INTO definition (kind, name, body, location, default_schema)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
                params![
                    definition.kind.name(),
                    definition.name,
                    definition.body,
                    definition.location,
                    definition.default_schema
                ],
            )?;
            transaction.commit()
        })
    }

    /// Forgets a definition. False if there was none.
    ///
    /// # Errors
    /// [`ServerError::Catalog`].
    pub fn remove(&self, kind: ObjectKind, name: &str) -> Result<bool, ServerError> {
        self.with(|connection| {
            let removed = connection.execute(
                "DELETE FROM definition WHERE kind = ?1 AND name = ?2",
                params![kind.name(), name],
            )?;
            Ok(removed > 0)
        })
    }

    /// Forgets a schema and the tables and views in it.
    ///
    /// # Errors
    /// [`ServerError::Catalog`].
    pub fn remove_schema(&self, name: &str) -> Result<(), ServerError> {
        self.with(|connection| {
            connection.execute(
                "DELETE FROM definition
                 WHERE (kind = 'schema' AND name = ?1)
                    OR (kind IN ('table', 'view')
                        AND substr(name, 1, length(?1) + 1) = ?1 || '.')",
                params![name],
            )?;
            Ok(())
        })
    }

    fn with<T>(
        &self,
        deed: impl FnOnce(&mut Connection) -> rusqlite::Result<T>,
    ) -> Result<T, ServerError> {
        deed(&mut self.connection.lock()).map_err(|source| ServerError::Catalog {
            path: self.path.clone(),
            source,
        })
    }
}

/// Brings the file to [`FORMAT`], all or nothing.
fn prepare(connection: &mut Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    let connection = connection.transaction()?;
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if found > FORMAT {
        return Err(rusqlite::Error::InvalidParameterName(format!(
            "written by a newer version (format {found}, this one knows {FORMAT})"
        )));
    }
    if found == 0 {
        connection.execute_batch(
            "CREATE TABLE definition (
                 id INTEGER PRIMARY KEY AUTOINCREMENT,
                 kind TEXT NOT NULL,
                 name TEXT NOT NULL,
                 body BLOB NOT NULL,
                 location TEXT,
                 UNIQUE (kind, name)
             ) STRICT;",
        )?;
    }
    if found < 2 {
        connection.execute_batch("ALTER TABLE definition ADD COLUMN default_schema TEXT")?;
    }
    if found < FORMAT {
        connection.pragma_update(None, "user_version", FORMAT)?;
    }
    connection.commit()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(name: &str, body: &str) -> Definition {
        Definition {
            kind: ObjectKind::View,
            name: name.into(),
            body: body.into(),
            location: None,
            default_schema: Some("s".into()),
        }
    }

    #[test]
    fn definitions_survive_in_creation_order_and_replace_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(Some(dir.path())).unwrap();
        for (name, body) in [("b", "1"), ("a", "2"), ("b", "3")] {
            catalog.put(&definition(name, body)).unwrap();
        }
        drop(catalog);
        let catalog = Catalog::open(Some(dir.path())).unwrap();
        assert_eq!(
            catalog.all().unwrap(),
            [definition("a", "2"), definition("b", "3")]
        );
        assert!(catalog.remove(ObjectKind::View, "a").unwrap());
        assert!(!catalog.remove(ObjectKind::View, "a").unwrap());
    }

    #[test]
    fn a_table_and_a_view_share_names_and_go_with_their_schema() {
        let catalog = Catalog::open(None).unwrap();
        let table = Definition {
            kind: ObjectKind::Table,
            ..definition("s.a", "1")
        };
        catalog.put(&definition("s.a", "0")).unwrap();
        catalog.put(&table).unwrap();
        let other = definition("sx.a", "2");
        catalog.put(&other).unwrap();
        assert_eq!(catalog.all().unwrap(), [table, other.clone()]);
        catalog.remove_schema("s").unwrap();
        assert_eq!(catalog.all().unwrap(), [other]);
    }

    #[test]
    fn a_catalog_of_format_1_is_brought_up() {
        let dir = tempfile::tempdir().unwrap();
        let old = Connection::open(dir.path().join("catalog.sqlite")).unwrap();
        old.execute_batch(
            "CREATE TABLE definition (id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL,
                 name TEXT NOT NULL, body BLOB NOT NULL, location TEXT, UNIQUE (kind, name)) STRICT;
             INSERT INTO definition (kind, name, body) VALUES ('view', 'public.v', x'31');
             PRAGMA user_version = 1;",
        )
        .unwrap();
        drop(old);
        let old = Definition {
            default_schema: None,
            ..definition("public.v", "1")
        };
        for _ in 0..2 {
            let catalog = Catalog::open(Some(dir.path())).unwrap();
            assert_eq!(catalog.all().unwrap(), std::slice::from_ref(&old));
        }
    }

    #[test]
    fn a_catalog_of_a_newer_version_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let newer = Connection::open(dir.path().join("catalog.sqlite")).unwrap();
        newer.pragma_update(None, "user_version", 99).unwrap();
        drop(newer);
        let text = Catalog::open(Some(dir.path())).unwrap_err().to_string();
        assert!(text.contains("newer version"), "{text}");
    }

    #[test]
    fn a_file_that_is_no_catalog_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("catalog.sqlite"), "x".repeat(4096)).unwrap();
        let text = Catalog::open(Some(dir.path())).unwrap_err().to_string();
        assert!(text.contains("catalog.sqlite"), "{text}");
    }
}
