//! Our execs as bytes, for plans that run on another executor.
//!
//! The base calls it for each exec that DataFusion's own codec does not know.
//! One message per operator, in `mobula_proto::plan`.

mod kept_parts;

use std::sync::Arc;

use datafusion::common::{DataFusionError, Result, internal_datafusion_err, internal_err};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::physical_plan::{PhysicalExtensionCodec, PhysicalProtoConverterExtension};
use mobula_proto::plan as proto;
use mobula_proto::plan::exec_node::Kind;
use mobula_proto::plan::map_batches_exec_node::Shape;
use mobula_proto::plan::{
    BlocksExecNode, ColumnShape, ExecNode, KeepExecNode, MapBatchesExecNode, RouteExecNode,
    SpreadExecNode, TableShape, VeilExecNode,
};
use mobula_udfs::{UdfCall, UdfError};
use prost::Message;

use crate::operator::keep::KeepExec;
use crate::operator::kept_scan::KeptScanExec;
use crate::operator::map_batches::{
    ExecGrouping, ExecShape, MapBatchesExec, SortWay, map_batches_exec,
};
use crate::operator::repartition::{BlocksExec, RouteExec, Spread, SpreadExec};
use crate::operator::veil::VeilExec;
use crate::text_source;

/// Encodes and decodes the execs of [`crate::operator::OPERATORS`], and scans of text.
#[derive(Debug, Default, Clone, Copy)]
pub struct MobulaCodec;

impl PhysicalExtensionCodec for MobulaCodec {
    fn try_decode(
        &self,
        buf: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        ctx: &TaskContext,
        proto_converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let unknown =
            || internal_datafusion_err!("the plan has an operator that this version does not know");
        let node = ExecNode::decode(buf).map_err(|_| unknown())?;
        match node.kind.ok_or_else(unknown)? {
            Kind::MapBatches(message) => Ok(Arc::new(decode_map_batches(message, inputs)?)),
            Kind::Spread(message) => Ok(Arc::new(decode_spread(message, inputs)?)),
            Kind::Route(RouteExecNode { partitions }) => {
                let partitions = at_least_one(partitions)?;
                Ok(Arc::new(RouteExec::new(one(inputs)?, partitions)))
            }
            Kind::Blocks(BlocksExecNode { rows_per_block }) => {
                let rows = at_least_one(rows_per_block)?;
                Ok(Arc::new(BlocksExec::new(one(inputs)?, rows)))
            }
            Kind::Veil(VeilExecNode {}) => Ok(Arc::new(VeilExec::new(one(inputs)?))),
            Kind::TextScan(message) => text_source::decode(&message, ctx, self, proto_converter),
            Kind::Keep(KeepExecNode { id }) => Ok(Arc::new(KeepExec::new(one(inputs)?, &id))),
            Kind::KeptScan(message) => Ok(Arc::new(kept_parts::decode(message)?)),
        }
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        buf: &mut Vec<u8>,
        proto_converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        let kind = if let Some(exec) = map_batches_exec(node.as_ref()) {
            Kind::MapBatches(encode_map_batches(exec)?)
        } else if let Some(exec) = node.downcast_ref::<SpreadExec>() {
            Kind::Spread(encode_spread(exec.spread())?)
        } else if let Some(exec) = node.downcast_ref::<RouteExec>() {
            Kind::Route(RouteExecNode {
                partitions: exec.partitions() as u64,
            })
        } else if let Some(exec) = node.downcast_ref::<BlocksExec>() {
            Kind::Blocks(BlocksExecNode {
                rows_per_block: exec.rows_per_block() as u64,
            })
        } else if node.is::<VeilExec>() {
            Kind::Veil(VeilExecNode {})
        } else if let Some(scan) = text_source::encode(node.as_ref(), self, proto_converter) {
            Kind::TextScan(scan?)
        } else if let Some(exec) = node.downcast_ref::<KeepExec>() {
            let id = exec.id().to_owned();
            Kind::Keep(KeepExecNode { id })
        } else if let Some(exec) = node.downcast_ref::<KeptScanExec>() {
            Kind::KeptScan(kept_parts::encode(exec)?)
        } else {
            return internal_err!("{} cannot travel to another executor", node.name());
        };
        let node = ExecNode { kind: Some(kind) };
        buf.extend(node.encode_to_vec());
        Ok(())
    }
}

fn encode_spread(spread: &Spread) -> Result<SpreadExecNode> {
    Ok(SpreadExecNode {
        partitions: spread.partitions as u64,
        tasks: spread.tasks as u64,
        by: wire(&spread.by)?,
    })
}

fn decode_spread(message: SpreadExecNode, inputs: &[Arc<dyn ExecutionPlan>]) -> Result<SpreadExec> {
    let input = one(inputs)?;
    let spread = Spread {
        partitions: at_least_one(message.partitions)?,
        tasks: at_least_one(message.tasks)?,
        by: places(message.by),
        alike: false,
    };
    let columns = input.schema().fields().len();
    match spread.by.iter().find(|column| **column >= columns) {
        Some(column) => internal_err!("spreads by column {column} of {columns}"),
        None => Ok(SpreadExec::new(input, spread, true)),
    }
}

fn one(inputs: &[Arc<dyn ExecutionPlan>]) -> Result<Arc<dyn ExecutionPlan>> {
    match inputs {
        [input] => Ok(Arc::clone(input)),
        _ => internal_err!("an operator has one input, not {}", inputs.len()),
    }
}

fn at_least_one(number: u64) -> Result<usize> {
    match usize::try_from(number) {
        Ok(number @ 1..) => Ok(number),
        _ => internal_err!("a plan with {number} where at least 1 must stand"),
    }
}

fn encode_map_batches(exec: &MapBatchesExec) -> Result<MapBatchesExecNode> {
    let shape = match exec.shape() {
        ExecShape::Table { keeps_rows } => Shape::Table(TableShape {
            keeps_rows: *keeps_rows,
        }),
        ExecShape::Column { args, mask } => Shape::Column(ColumnShape {
            args: wire(args)?,
            mask: wire(mask.as_slice())?.pop(),
        }),
        ExecShape::Filter { args } => Shape::Filter(ColumnShape {
            args: wire(args)?,
            mask: None,
        }),
    };
    Ok(MapBatchesExecNode {
        udf_call: exec.call().encode().map_err(external)?,
        concurrency: exec.concurrency().map(|n| n as u64),
        shape: Some(shape),
        grouping: exec.grouping().map(encode_grouping).transpose()?,
        call_id: exec.call_id(),
    })
}

fn decode_map_batches(
    message: MapBatchesExecNode,
    inputs: &[Arc<dyn ExecutionPlan>],
) -> Result<MapBatchesExec> {
    let input = one(inputs)?;
    let shape = match message.shape {
        Some(Shape::Table(TableShape { keeps_rows })) => ExecShape::Table { keeps_rows },
        Some(Shape::Column(ColumnShape { args, mask })) => ExecShape::Column {
            args: places(args),
            mask: mask.map(|i| i as usize),
        },
        Some(Shape::Filter(ColumnShape { args, mask: None })) => {
            ExecShape::Filter { args: places(args) }
        }
        Some(Shape::Filter(_)) => return internal_err!("a filter with a mask"),
        None => return internal_err!("an operator without shape"),
    };
    let call = UdfCall::decode(&message.udf_call).map_err(external)?;
    let concurrency = message.concurrency.map(|n| n as usize);
    let exec = MapBatchesExec::try_new(Arc::clone(&input), Arc::new(call), shape, concurrency)?;
    let exec = exec.with_call_id(message.call_id);
    let columns = input.schema().fields().len();
    let grouping = message.grouping.map(|g| decode_grouping(g, columns));
    Ok(exec.with_grouping(grouping.transpose()?))
}

fn encode_grouping(grouping: &ExecGrouping) -> Result<proto::Grouping> {
    let columns: Vec<_> = grouping.order.iter().map(|(column, _)| *column).collect();
    let order = wire(&columns)?.into_iter().zip(&grouping.order);
    Ok(proto::Grouping {
        keys: wire(&grouping.keys)?,
        order: order
            .map(|(column, (_, way))| proto::SortKey {
                column,
                descending: way.descending,
                nulls_first: way.nulls_first,
            })
            .collect(),
    })
}

fn decode_grouping(message: proto::Grouping, columns: usize) -> Result<ExecGrouping> {
    let order = message.order.into_iter().map(|key| {
        let way = SortWay {
            descending: key.descending,
            nulls_first: key.nulls_first,
        };
        (key.column as usize, way)
    });
    let grouping = ExecGrouping {
        keys: places(message.keys),
        order: order.collect(),
    };
    let mut all = grouping
        .keys
        .iter()
        .chain(grouping.order.iter().map(|(c, _)| c));
    match all.find(|column| **column >= columns) {
        Some(column) => internal_err!("groups by column {column} of {columns}"),
        None => Ok(grouping),
    }
}

fn wire(args: &[usize]) -> Result<Vec<u32>> {
    let args = args.iter().map(|i| u32::try_from(*i));
    let args = args.collect::<Result<_, _>>();
    args.map_err(|_| internal_datafusion_err!("a plan with 2^32 columns"))
}

fn places(args: Vec<u32>) -> Vec<usize> {
    args.into_iter().map(|i| i as usize).collect()
}

fn external(error: UdfError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

fn external_codec(error: impl std::error::Error + Send + Sync + 'static) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::OPERATORS;
    use crate::test_session::{FakeHost, plan, session};
    use datafusion::physical_plan::displayable;
    use datafusion_proto::bytes::{
        physical_plan_from_bytes_with_extension_codec, physical_plan_to_bytes_with_extension_codec,
    };

    /// One query per operator and shape.
    const QUERIES: &[(&str, &str)] = &[
        ("MapBatchesExec", "SELECT net(a, b), inc(c) FROM v"),
        (
            "MapBatchesExec",
            "SELECT x FROM map_batches(TABLE(SELECT a, s FROM v), twice, batch_size => 9, batch_format => 'pyarrow')",
        ),
        (
            "MapBatchesExec",
            "SELECT * FROM map_batches(TABLE(v), \"Embed\"(k => 'a''b'), concurrency => 3)",
        ),
        (
            "MapBatchesExec",
            "SELECT CASE WHEN a = 1 THEN net(a, b) END, c > 2 OR inc(c) > 2 FROM v",
        ),
        ("MapExec", "SELECT * FROM map(TABLE(v), inc)"),
        (
            "volatility=stable, batch_size=9, batch_format=numpy, concurrency=2..3, zero_copy_batch=false, preserve_order=true, timeout=5s, retry=OSError up to 2 times, on_error=drop, max_errors=7, max_error_ratio=0.5",
            "SELECT x FROM map_batches(TABLE(v), same, schema => 'x SMALLINT', batch_size => 9, concurrency => '2..3', \
             volatility => 'stable', zero_copy_batch => false, preserve_order => true, timeout => '5s', \
             retry_exceptions => 'OSError', max_retries => 2, on_error => 'drop', max_errors => 7, max_error_ratio => 0.5)",
        ),
        (
            "num_cpus=2, num_gpus=0.5, memory=1GiB, resources=fpga=1,slot=0.25, label_selector=zone=a,disk!=hdd|zone=b, placement=pack",
            "SELECT inc FROM map_batches(TABLE(v), inc, num_cpus => 2, num_gpus => 0.5, memory => '1GiB', \
             resources => 'slot=0.25, fpga=1', label_selector => 'zone=a, disk!=hdd | zone=b', placement => 'pack')",
        ),
        (
            "FlatMapExec: udf=twice, then=[map same (volatility=immutable), filter big (volatility=immutable)]",
            "SELECT x FROM filter(TABLE(SELECT x, x AS a FROM map(TABLE(SELECT * FROM flat_map(TABLE(v), twice)), same)), big)",
        ),
        (
            "udf=inc, then=[map_batches dice]",
            "SELECT dice(inc(a)) FROM v",
        ),
        ("FlatMapExec", "SELECT * FROM flat_map(TABLE(v), twice)"),
        ("MapExec", "SELECT * FROM map(TABLE(v), twice)"),
        ("UdfFilterExec", "SELECT * FROM filter(TABLE(v), big)"),
        (
            "MapGroupsExec",
            "SELECT * FROM map_groups(TABLE(v), twice, partition_by => (c, s), order_by => 'b DESC, a')",
        ),
        (
            "partition_by=[c, s], order_by=[b DESC], batch_size=8, batch_format=numpy, concurrency=3, snapshot_every=5",
            "SELECT * FROM map_batches(TABLE(v), \"Embed\", partition_by => (c, s), order_by => 'b DESC', concurrency => 3, snapshot_every => 5)",
        ),
        ("UdfFilterExec", "SELECT s FROM filter(TABLE(v), good)"),
        ("SpreadExec", "SELECT a FROM repartition(TABLE(v), 3)"),
        ("RouteExec", "SELECT a FROM repartition(TABLE(v), 3)"),
        (
            "SpreadExec: partitions=3, by=[s]",
            "SELECT s FROM repartition(TABLE(v), 3, by => s)",
        ),
        (
            "BlocksExec",
            "SELECT a FROM repartition(TABLE(v), rows_per_block => 3)",
        ),
        (
            "VeilExec",
            "SELECT v.a, o.s FROM v LEFT JOIN (SELECT value, 'x' AS s FROM generate_series(1, 2)) AS o ON v.a = o.value",
        ),
    ];

    #[tokio::test]
    async fn every_operator_survives_the_way() {
        for operator in OPERATORS {
            assert!(
                QUERIES.iter().any(|(exec, _)| *exec == operator.exec),
                "{}",
                operator.exec
            );
        }
        let state = session(Arc::new(FakeHost::default()));
        for (exec, sql) in QUERIES {
            let values = "SELECT 1 AS a, 2.5 AS b, 3 AS c, 'x' AS s";
            let sql = sql.replace("TABLE(v)", &format!("TABLE({values})"));
            let sql = sql.replace("FROM v", &format!("FROM ({values}) AS v"));
            let logical = plan(&state, &sql).await.unwrap();
            let sent = state.create_physical_plan(&logical).await.unwrap();
            let bytes =
                physical_plan_to_bytes_with_extension_codec(Arc::clone(&sent), &MobulaCodec)
                    .unwrap();
            let context = state.task_ctx();
            let arrived =
                physical_plan_from_bytes_with_extension_codec(&bytes, &context, &MobulaCodec)
                    .unwrap();
            let text =
                |plan: &Arc<dyn ExecutionPlan>| displayable(plan.as_ref()).indent(true).to_string();
            assert_eq!(text(&sent), text(&arrived));
            assert!(text(&sent).contains(exec), "{}", text(&sent));
            assert_eq!(sent.schema(), arrived.schema());
        }
    }

    #[test]
    fn an_unknown_node_is_told() {
        let context = TaskContext::default();
        let converter = datafusion_proto::physical_plan::DefaultPhysicalProtoConverter {};
        for bytes in [vec![], vec![0xff; 9]] {
            let error = MobulaCodec
                .try_decode(&bytes, &[], &context, &converter)
                .unwrap_err();
            assert!(error.to_string().contains("does not know"), "{error}");
        }
    }
}
