//! The command line of `mobula`.

mod demo;
mod embedded;
mod executor;
mod serve;
mod settings;
mod sql;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};
use mobula_execution::RustFunctions;
use mobula_plan::MobulaOptions;
use tracing_subscriber::EnvFilter;

use crate::shell::{Format, print_error};
use crate::{ServerError, python_env, tpch_data};

/// Stack of the threads that plan and run queries: plans are trees, and the
/// parser's limits are made for this much. Only what is used is taken.
const STACK_BYTES: usize = 32 << 20;

/// Runs the program and gives its exit code: 0, 1 on an error, 2 on a wrong
/// command line.
pub fn main() -> ExitCode {
    main_with(RustFunctions::default())
}

/// As [`main`], with `functions` of the program that calls it: `mobula` with more
/// functions. Executors that it starts are the same program and have them too.
pub fn main_with(functions: RustFunctions) -> ExitCode {
    // Not on the first thread, whose stack is the system's to choose.
    let started = std::thread::Builder::new()
        .name("mobula".into())
        .stack_size(STACK_BYTES)
        .spawn(|| main_with_stack(functions));
    match started.map(|thread| thread.join()) {
        Ok(Ok(code)) => code,
        // It has said why.
        Ok(Err(_)) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: cannot start a thread: {error}");
            ExitCode::FAILURE
        }
    }
}

fn main_with_stack(functions: RustFunctions) -> ExitCode {
    let matches = command().get_matches();
    let Some((name, matches)) = matches.subcommand() else {
        return ExitCode::from(2);
    };
    let result = settings::load(matches, |name| std::env::var(name).ok()).and_then(|options| {
        start_log(&options);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .thread_stack_size(STACK_BYTES)
            .enable_all()
            .build()
            .map_err(ServerError::Output)?;
        let result = runtime.block_on(run(name, matches, options, functions));
        // Blocking reads of a terminal cannot be interrupted.
        runtime.shutdown_background();
        result
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has enough: `mobula sql … | head`.
        Err(ServerError::Output(e)) if e.kind() == std::io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            print_error(&error);
            ExitCode::FAILURE
        }
    }
}

async fn run(
    name: &str,
    matches: &ArgMatches,
    options: MobulaOptions,
    functions: RustFunctions,
) -> Result<(), ServerError> {
    match name {
        "sql" => sql::run(matches, options, functions).await,
        "serve" => serve::run(matches, options, functions).await,
        "executor" => executor::run(matches, options, functions).await,
        "demo" => demo::run(matches, options).await,
        "tpch-data" => tpch_data_command(matches).await,
        _ => python_env::setup(&options),
    }
}

async fn tpch_data_command(matches: &ArgMatches) -> Result<(), ServerError> {
    let out = matches
        .get_one::<PathBuf>("out")
        .cloned()
        .unwrap_or_default();
    let data = tpch_data::TpchData {
        scale_factor: matches.get_one("sf").copied().unwrap_or(1.0),
        parts: matches.get_one("parts").copied().unwrap_or(1),
        out,
    };
    let verify = matches.get_flag("verify");
    let made = tokio::task::spawn_blocking(move || data.make(verify)).await;
    made.unwrap_or_else(|e| Err(ServerError::Output(std::io::Error::other(e))))
}

fn start_log(options: &MobulaOptions) {
    // The statement that met it says so too; nobody needs the backtrace.
    std::panic::set_hook(Box::new(|info| tracing::error!("{info}")));
    let filter = EnvFilter::try_new(options.log()).unwrap_or_else(|_| EnvFilter::new("warn"));
    // Fails only if a host program has set one already, which then stays.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .try_init();
}

fn command() -> Command {
    let subcommands = [
        sql_command(),
        serve_command(),
        executor_command(),
        demo_command(),
    ];
    Command::new("mobula")
        .version(env!("CARGO_PKG_VERSION"))
        .about("SQL over Arrow Flight with Python actors, on one process or many")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands(subcommands.map(|c| c.args(settings::flags())))
        .subcommand(tpch_command().args(settings::flags().into_iter().map(|a| a.hide(true))))
        .subcommand(
            Command::new("python")
                .about("The Python environment that functions run in")
                .subcommand_required(true)
                .args(settings::flags().into_iter().map(|a| a.global(true)))
                .subcommand(Command::new("setup").about(
                    "Make DATA_DIR/python with the packages that workers need (pyarrow, numpy)",
                )),
        )
}

fn sql_command() -> Command {
    Command::new("sql")
        .about("Run SQL: a prompt, -c, -f, or standard input")
        .arg(
            Arg::new("command")
                .short('c')
                .long("command")
                .value_name("SQL")
                .action(ArgAction::Append)
                .help("Statements to run; may be given several times"),
        )
        .arg(
            Arg::new("file")
                .short('f')
                .long("file")
                .value_name("FILE")
                .value_parser(clap::value_parser!(PathBuf))
                .help("File of statements to run, after those of -c; - is standard input"),
        )
        .arg(
            Arg::new("format")
                .long("format")
                .value_name("FORMAT")
                .default_value("table")
                .value_parser(|text: &str| text.parse::<Format>())
                .help("How rows are written: table, csv or json (one object a line)"),
        )
        .arg(
            Arg::new("connect")
                .long("connect")
                .value_name("URL")
                .help("Server to talk to, grpc://HOST:PORT [default: embedded in this process]"),
        )
}

fn serve_command() -> Command {
    Command::new("serve")
        .about("Serve Flight SQL clients, alone or as the coordinator of executors")
        .arg(
            Arg::new("embedded")
                .long("embedded")
                .value_name("DIR")
                .value_parser(clap::value_parser!(PathBuf))
                .hide(true),
        )
        .arg(advertise("executors reach this server"))
}

/// `who` reaches whom.
fn advertise(who: &str) -> Arg {
    Arg::new("advertise")
        .long("advertise")
        .value_name("HOST:PORT")
        .help(format!(
            "Where {who} [default: where it listens for the cluster; if that is everywhere, this machine's address]"
        ))
}

fn executor_command() -> Command {
    Command::new("executor")
        .about("Run tasks for a coordinator")
        .arg(
            Arg::new("coordinator")
                .long("coordinator")
                .value_name("URL")
                .required(true)
                .help("Cluster listener of the coordinator, grpc://HOST:PORT"),
        )
        .arg(advertise("others reach this executor"))
        .arg(
            Arg::new("id")
                .long("id")
                .value_name("NAME")
                .help("Name in system.executors [default: made up]"),
        )
        .arg(
            Arg::new("exit_with_stdin")
                .long("exit-with-stdin")
                .action(ArgAction::SetTrue)
                .hide(true),
        )
}

fn demo_command() -> Command {
    Command::new("demo")
        .about("Make TPC-H data, a Python actor and a query that feeds it")
        .arg(scale_factor())
}

fn tpch_command() -> Command {
    Command::new("tpch-data")
        .about("Make the eight TPC-H tables as Parquet files")
        .arg(scale_factor())
        .arg(
            Arg::new("out")
                .long("out")
                .value_name("DIR")
                .required(true)
                .value_parser(clap::value_parser!(PathBuf))
                .help("Directory for TABLE.parquet, or TABLE/part-N.parquet with --parts"),
        )
        .arg(
            Arg::new("parts")
                .long("parts")
                .value_name("N")
                .default_value("1")
                .value_parser(clap::value_parser!(u32).range(1..=1000))
                .help("Files a table, 1 to 1000"),
        )
        .arg(
            Arg::new("verify")
                .long("verify")
                .action(ArgAction::SetTrue)
                .help("Check the checksums of files made earlier, not only their sizes"),
        )
}

fn scale_factor() -> Arg {
    Arg::new("sf")
        .long("sf")
        .value_name("N")
        .default_value("1")
        .value_parser(|text: &str| match text.parse::<f64>() {
            Ok(sf) if (0.001..=1000.0).contains(&sf) => Ok(sf),
            _ => Err(format!(
                "\"{text}\" is not a scale factor from 0.001 to 1000"
            )),
        })
        .help("Scale factor: 1 is about 1 GB of text, 350 MB of Parquet")
}
