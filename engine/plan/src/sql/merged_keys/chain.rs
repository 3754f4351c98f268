//! What the text says about a chain of joins. Read both before planning and while planning,
//! which must agree.

use std::collections::{BTreeMap, BTreeSet};
use std::iter;

use datafusion::common::JoinType;
use datafusion::sql::sqlparser::ast::{
    Ident, Join, JoinConstraint, JoinOperator, ObjectName, TableAlias, TableAliasColumnDef,
    TableFactor, TableWithJoins,
};

use crate::sql::normalized;

/// The alias of a chain in parentheses that stands for none: its columns are the names whose
/// own columns of each side are asked for, or `*` for those of all keys.
const SIDES: &str = "sides of its keys";
/// Any name.
pub(super) const ALL: &str = "*";

/// The names of keys that are asked for with a table's name in front.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Sides(BTreeSet<String>);

impl Sides {
    pub fn has(&self, key: &str) -> bool {
        self.0.contains(key) || self.0.contains(ALL)
    }

    /// As an alias; none where there is nothing to say.
    pub fn into_alias(self) -> Option<TableAlias> {
        let column = |name| TableAliasColumnDef {
            name: Ident::with_quote('"', name),
            data_type: None,
        };
        (!self.0.is_empty()).then(|| TableAlias {
            explicit: true,
            name: Ident::with_quote('"', SIDES),
            columns: self.0.into_iter().map(column).collect(),
            at: None,
        })
    }

    /// What [`into_alias`](Self::into_alias) made; `None` for an alias that is the user's.
    pub fn of_alias(alias: Option<&TableAlias>) -> Option<Self> {
        let Some(alias) = alias else {
            return Some(Self::default());
        };
        let names = alias.columns.iter().map(|column| column.name.value.clone());
        (alias.name.value == SIDES).then(|| Self(names.collect()))
    }
}

impl FromIterator<String> for Sides {
    fn from_iter<T: IntoIterator<Item = String>>(names: T) -> Self {
        Self(names.into_iter().collect())
    }
}

/// A chain in parentheses whose tables are known by their own names outside.
pub(super) fn open(factor: &TableFactor) -> Option<&TableWithJoins> {
    match factor {
        TableFactor::NestedJoin {
            table_with_joins,
            alias,
        } => Sides::of_alias(alias.as_ref()).map(|_| table_with_joins.as_ref()),
        _ => None,
    }
}

/// As [`open`], to change it and what its alias says.
pub(super) fn open_mut(
    factor: &mut TableFactor,
) -> Option<(&mut TableWithJoins, &mut Option<TableAlias>)> {
    match factor {
        TableFactor::NestedJoin {
            table_with_joins,
            alias,
        } if Sides::of_alias(alias.as_ref()).is_some() => Some((table_with_joins, alias)),
        _ => None,
    }
}

/// The type and the keys of a join whose columns merge; semi and anti joins have those of one
/// side.
pub(super) fn keyed(operator: &JoinOperator) -> Option<(JoinType, &JoinConstraint)> {
    let (join_type, constraint) = match operator {
        JoinOperator::Join(keys) | JoinOperator::Inner(keys) => (JoinType::Inner, keys),
        JoinOperator::Left(keys) | JoinOperator::LeftOuter(keys) => (JoinType::Left, keys),
        JoinOperator::Right(keys) | JoinOperator::RightOuter(keys) => (JoinType::Right, keys),
        JoinOperator::FullOuter(keys) => (JoinType::Full, keys),
        _ => return None,
    };
    let merges = matches!(
        constraint,
        JoinConstraint::Using(_) | JoinConstraint::Natural
    );
    merges.then_some((join_type, constraint))
}

/// Which joins of `chain` are planned here: those whose keys merge.
pub(super) fn merging(chain: &TableWithJoins) -> Vec<bool> {
    let is_planned = merges(chain);
    let joins = chain.joins.iter();
    let is_merging = |join: &Join| is_planned && keyed(&join.join_operator).is_some();
    joins.map(is_merging).collect()
}

/// Whether any join of `chain` is planned here, or one in parentheses in it. INNER JOINs that have
/// LATERAL among them are DataFusion's.
pub(super) fn merges(chain: &TableWithJoins) -> bool {
    let (mut is_keyed, mut is_outer, mut is_lateral) = (false, false, false);
    for join in &chain.joins {
        if let Some((join_type, _)) = keyed(&join.join_operator) {
            is_keyed = true;
            is_outer |= join_type != JoinType::Inner;
            is_lateral |= self::is_lateral(&join.relation);
        }
    }
    let is_merged_inside = factors(chain).filter_map(open).any(merges);
    is_merged_inside || is_outer || (is_keyed && !is_lateral)
}

/// Whether what `factor` gives hangs on the relations before it.
pub(super) fn is_lateral(factor: &TableFactor) -> bool {
    matches!(
        factor,
        TableFactor::Derived { lateral: true, .. } | TableFactor::Function { lateral: true, .. }
    )
}

/// The relations of `chain`, from left to right.
pub(super) fn factors(chain: &TableWithJoins) -> impl Iterator<Item = &TableFactor> {
    iter::once(&chain.relation).chain(chain.joins.iter().map(|join| &join.relation))
}

/// What stands before a merged key: the chain by its first table, which no other chain of the
/// query has.
pub(super) fn qualifier(chain: &TableWithJoins) -> String {
    match open(&chain.relation) {
        Some(inner) => qualifier(inner),
        None => format!("({}, …)", parts(&chain.relation).join(".")),
    }
}

/// Whether `table` is what [`qualifier`] makes.
pub(super) fn is_qualifier(table: &str) -> bool {
    table.starts_with('(') && table.ends_with(", …)")
}

/// The names that the tables of `chain` are known by, without their schemas.
pub(super) fn tables(chain: &TableWithJoins) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for factor in factors(chain) {
        match open(factor) {
            Some(inner) => names.extend(tables(inner)),
            None => names.extend(parts(factor).pop()),
        }
    }
    names
}

/// The keys that the joins planned here name, with what stands before each; none before one
/// that there is twice.
pub(super) fn keys(chain: &TableWithJoins) -> BTreeMap<String, Option<String>> {
    let mut keys = open(&chain.relation).map(self::keys).unwrap_or_default();
    for (join, is_merging) in chain.joins.iter().zip(merging(chain)) {
        if let Some(inner) = open(&join.relation) {
            add_keys(&mut keys, self::keys(inner));
        }
        if let Some((_, JoinConstraint::Using(names))) = keyed(&join.join_operator)
            && is_merging
        {
            let names = names.iter().filter_map(|name| idents(name).pop());
            keys.extend(names.map(|key| (key, Some(qualifier(chain)))));
        }
    }
    keys
}

/// Adds the keys of a relation beside those that `keys` are of.
pub(super) fn add_keys(
    keys: &mut BTreeMap<String, Option<String>>,
    more: BTreeMap<String, Option<String>>,
) {
    for (key, qualifier) in more {
        let known = keys.entry(key);
        known.and_modify(|known| *known = None).or_insert(qualifier);
    }
}

/// The alias of a relation, or the parts of its name.
fn parts(factor: &TableFactor) -> Vec<String> {
    let (name, alias) = match factor {
        TableFactor::Table { name, alias, .. } | TableFactor::Function { name, alias, .. } => {
            (Some(name), alias)
        }
        TableFactor::Derived { alias, .. }
        | TableFactor::UNNEST { alias, .. }
        | TableFactor::NestedJoin { alias, .. } => (None, alias),
        _ => return vec![],
    };
    match alias {
        Some(alias) => vec![normalized(&alias.name)],
        None => name.map(idents).unwrap_or_default(),
    }
}

/// The parts of `name`.
pub(super) fn idents(name: &ObjectName) -> Vec<String> {
    let parts = name.0.iter().filter_map(|part| part.as_ident());
    parts.map(normalized).collect()
}
