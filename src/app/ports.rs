//! Who listens on a port: so that "address in use" comes with a name.

use std::fs;
use std::net::SocketAddr;

/// Processes looked at. A machine with more has other problems than this message.
const PROCESSES_MAX: usize = 100_000;
/// The kernel's number for a listening socket.
const LISTENING: &str = "0A";

/// The process that listens on the port of `address`, as "name (process 123)". Only this user's
/// processes can be seen, and only on Linux.
pub(crate) fn listener_of(address: SocketAddr) -> Option<String> {
    let inodes: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| listening_inodes(&table, address.port()))
        .collect();
    if inodes.is_empty() {
        return None;
    }
    let links: Vec<String> = inodes
        .iter()
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    let processes = fs::read_dir("/proc").ok()?.take(PROCESSES_MAX).flatten();
    let holder = processes
        .filter(|process| process.file_name().to_string_lossy().parse::<u32>().is_ok())
        .find(|process| {
            let Ok(open) = fs::read_dir(process.path().join("fd")) else {
                return false;
            };
            open.flatten().any(|fd| {
                fs::read_link(fd.path())
                    .is_ok_and(|to| links.iter().any(|link| to.as_os_str() == link.as_str()))
            })
        })?;
    let name = fs::read_to_string(holder.path().join("comm")).unwrap_or_default();
    Some(format!(
        "{} (process {})",
        name.trim(),
        holder.file_name().to_string_lossy()
    ))
}

/// Socket inodes that listen on `port`, from a table of the kernel's.
fn listening_inodes(table: &str, port: u16) -> Vec<String> {
    let suffix = format!(":{port:04X}");
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let listens = fields.get(1)?.ends_with(&suffix) && *fields.get(3)? == LISTENING;
            listens.then(|| fields.get(9).map(|inode| (*inode).to_owned()))?
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_table_is_read() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
                     \x20  0: 0100007F:1EBB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1\n\
                     \x20  1: 0100007F:1EBB 0100007F:C000 01 00000000:00000000 00:00000000 00000000     0        0 4712 1\n";
        assert_eq!(listening_inodes(table, 7867), ["4711"]);
        assert!(listening_inodes(table, 80).is_empty());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let found = listener_of(listener.local_addr().unwrap()).unwrap();
        assert!(
            found.contains(&format!("process {}", std::process::id())),
            "{found}"
        );
    }
}
