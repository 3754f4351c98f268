//! XdbcTypeInfo: the SQL types and what ODBC and JDBC tools ask about them.

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use arrow_flight::sql::metadata::{XdbcTypeInfo, XdbcTypeInfoDataBuilder};
use arrow_flight::sql::{
    CommandGetXdbcTypeInfo, Nullable, Searchable, XdbcDataType, XdbcDatetimeSubcode,
};
use tonic::Status;

use super::metadata::unbuilt;

/// Columns of the answer.
pub fn schema() -> SchemaRef {
    XdbcTypeInfoDataBuilder::new().schema()
}

/// The answer to GetXdbcTypeInfo; a `data_type` leaves only that type's rows.
pub fn block(asked: CommandGetXdbcTypeInfo) -> Result<RecordBatch, Status> {
    let mut types = XdbcTypeInfoDataBuilder::new();
    let all = numbers().into_iter().chain(texts()).chain(times());
    for info in all {
        types.append(info);
    }
    let types = types.build().map_err(unbuilt)?;
    asked.into_builder(&types).build().map_err(unbuilt)
}

fn base(name: &str, data_type: XdbcDataType, size: Option<i32>) -> XdbcTypeInfo {
    XdbcTypeInfo {
        type_name: name.to_owned(),
        data_type,
        sql_data_type: data_type,
        column_size: size,
        nullable: Nullable::NullabilityNullable,
        searchable: Searchable::Full,
        local_type_name: Some(name.to_owned()),
        ..XdbcTypeInfo::default()
    }
}

/// Sizes are digits.
fn numbers() -> Vec<XdbcTypeInfo> {
    use XdbcDataType as Xdbc;
    let integers = [
        ("TINYINT", Xdbc::XdbcTinyint, 3, false),
        ("SMALLINT", Xdbc::XdbcSmallint, 5, false),
        ("INTEGER", Xdbc::XdbcInteger, 10, false),
        ("BIGINT", Xdbc::XdbcBigint, 19, false),
        ("TINYINT UNSIGNED", Xdbc::XdbcTinyint, 3, true),
        ("SMALLINT UNSIGNED", Xdbc::XdbcSmallint, 5, true),
        ("INTEGER UNSIGNED", Xdbc::XdbcInteger, 10, true),
        ("BIGINT UNSIGNED", Xdbc::XdbcBigint, 20, true),
    ];
    let floats = [
        ("REAL", Xdbc::XdbcReal, 24, 2),
        ("DOUBLE", Xdbc::XdbcDouble, 53, 2),
    ];
    let mut all = vec![XdbcTypeInfo {
        unsigned_attribute: None,
        ..base("BOOLEAN", Xdbc::XdbcBit, Some(1))
    }];
    all.extend(integers.map(|(name, kind, digits, unsigned)| XdbcTypeInfo {
        unsigned_attribute: Some(unsigned),
        auto_increment: Some(false),
        minimum_scale: Some(0),
        maximum_scale: Some(0),
        num_prec_radix: Some(10),
        ..base(name, kind, Some(digits))
    }));
    all.extend(floats.map(|(name, kind, digits, radix)| XdbcTypeInfo {
        unsigned_attribute: Some(false),
        auto_increment: Some(false),
        num_prec_radix: Some(radix),
        ..base(name, kind, Some(digits))
    }));
    all.push(XdbcTypeInfo {
        create_params: Some(vec!["precision".to_owned(), "scale".to_owned()]),
        unsigned_attribute: Some(false),
        auto_increment: Some(false),
        fixed_prec_scale: false,
        minimum_scale: Some(0),
        maximum_scale: Some(38),
        num_prec_radix: Some(10),
        ..base("DECIMAL", Xdbc::XdbcDecimal, Some(38))
    });
    all
}

/// Without a size: texts and bytes have no bound but a row's.
fn texts() -> Vec<XdbcTypeInfo> {
    let quoted = |name, kind, prefix: &str| XdbcTypeInfo {
        literal_prefix: Some(prefix.to_owned()),
        literal_suffix: Some("'".to_owned()),
        case_sensitive: true,
        ..base(name, kind, None)
    };
    vec![
        quoted("VARCHAR", XdbcDataType::XdbcVarchar, "'"),
        quoted("BYTEA", XdbcDataType::XdbcVarbinary, "X'"),
    ]
}

/// Sizes are characters.
fn times() -> Vec<XdbcTypeInfo> {
    use XdbcDataType as Xdbc;
    use XdbcDatetimeSubcode as Subcode;
    let timed = |name: &str, kind, size, subcode, scale| XdbcTypeInfo {
        literal_prefix: Some(format!("{name} '")),
        literal_suffix: Some("'".to_owned()),
        sql_data_type: Xdbc::XdbcDatetime,
        datetime_subcode: Some(subcode),
        minimum_scale: Some(0),
        maximum_scale: Some(scale),
        ..base(name, kind, Some(size))
    };
    vec![
        timed("DATE", Xdbc::XdbcDate, 10, Subcode::XdbcSubcodeYear, 0),
        timed("TIME", Xdbc::XdbcTime, 18, Subcode::XdbcSubcodeTime, 9),
        timed(
            "TIMESTAMP",
            Xdbc::XdbcTimestamp,
            29,
            Subcode::XdbcSubcodeTimestamp,
            9,
        ),
        XdbcTypeInfo {
            literal_prefix: Some("INTERVAL '".to_owned()),
            literal_suffix: Some("'".to_owned()),
            ..base("INTERVAL", Xdbc::XdbcInterval, None)
        },
    ]
}
