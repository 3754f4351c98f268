//! Scans of kept blocks as messages.

use std::sync::Arc;

use arrow::datatypes::Schema;
use datafusion::common::{Result, internal_datafusion_err};
use datafusion_proto::protobuf;
use mobula_proto::plan as proto;
use prost::Message;

use super::{external_codec, places, wire};
use crate::kept::{KeptName, KeptPart, PlacedPart};
use crate::operator::kept_scan::KeptScanExec;

pub(super) fn encode(scan: &KeptScanExec) -> Result<proto::KeptScanExecNode> {
    let schema =
        protobuf::Schema::try_from(scan.table_schema().as_ref()).map_err(external_codec)?;
    let streams = scan.streams().iter().map(|parts| proto::KeptStream {
        parts: parts.iter().map(part).collect(),
    });
    Ok(proto::KeptScanExecNode {
        id: scan.table().id.clone(),
        name: scan.table().name.clone(),
        schema: schema.encode_to_vec(),
        projection: wire(scan.projection())?,
        streams: streams.collect(),
    })
}

pub(super) fn decode(message: proto::KeptScanExecNode) -> Result<KeptScanExec> {
    let malformed = || internal_datafusion_err!("a scan of kept blocks without its columns");
    let schema = protobuf::Schema::decode(message.schema.as_slice()).map_err(|_| malformed())?;
    let schema = Schema::try_from(&schema).map_err(external_codec)?;
    let name = KeptName {
        id: message.id,
        name: message.name,
    };
    let streams = message.streams.into_iter();
    let streams = streams.map(|stream| stream.parts.into_iter().map(placed).collect());
    let projection = places(message.projection);
    KeptScanExec::try_new(name, Arc::new(schema), projection, streams.collect())
}

fn part(placed: &PlacedPart) -> proto::KeptPart {
    let PlacedPart { kept, url } = placed.clone();
    proto::KeptPart {
        executor_id: kept.executor_id,
        url,
        part: kept.part,
        rows: kept.rows,
        bytes: kept.bytes,
        spilled_bytes: kept.spilled_bytes,
    }
}

fn placed(message: proto::KeptPart) -> PlacedPart {
    let kept = KeptPart {
        executor_id: message.executor_id,
        part: message.part,
        rows: message.rows,
        bytes: message.bytes,
        spilled_bytes: message.spilled_bytes,
    };
    let url = message.url;
    PlacedPart { kept, url }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field};

    use super::*;

    #[test]
    fn scans_survive_the_way() {
        let list = DataType::List(Arc::new(Field::new_list_field(DataType::Utf8View, true)));
        let fields = vec![
            Field::new("n", DataType::Int64, true),
            Field::new("l", list, true),
        ];
        let placed = |number: u64| PlacedPart {
            kept: KeptPart {
                executor_id: format!("e{number}"),
                part: number,
                rows: 10,
                bytes: 100,
                spilled_bytes: 7,
            },
            url: "http://a:1".into(),
        };
        let name = KeptName {
            id: "x".into(),
            name: "t".into(),
        };
        let streams = vec![vec![placed(1), placed(2)], vec![]];
        let schema = Arc::new(Schema::new(fields));
        let sent = KeptScanExec::try_new(name, schema, vec![1], streams).unwrap();
        let arrived = decode(encode(&sent).unwrap()).unwrap();
        assert_eq!(format!("{arrived:?}"), format!("{sent:?}"));
        assert_eq!(arrived.table_schema(), sent.table_schema());
        let mut without = encode(&sent).unwrap();
        without.projection = vec![2];
        assert!(decode(without).is_err());
    }
}
