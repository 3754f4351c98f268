//! `mobula`, and the functions of this example: server, executors, shell.

use std::process::ExitCode;

use mobula_embed_example::functions;

fn main() -> ExitCode {
    match functions() {
        Ok(functions) => mobula_flight_server::cli::main_with(functions),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
