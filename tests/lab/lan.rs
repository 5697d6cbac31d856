//! Neighbours on one network whom nobody told of each other: mDNS finds members, and admits nobody.

use crate::homes::{id, models};
use crate::host::Host;
use crate::lab;
use crate::ocean::Node;
use crate::relaunch::Needs;
use serde_json::Value;
use std::time::{Duration, Instant};

/// A ping, and what a busy machine takes to hear that it is not answered.
const NOTICED: Duration = Duration::from_secs(12);

#[test]
fn lab_mdns_finds_members_and_admits_nobody_and_a_cut_heals() {
    lab::run(Needs::Nothing, |lab| {
        let Some(models) = models() else { return };
        let hosts: Vec<Host> = (0..3).map(|_| lab.host()).collect();
        let node = |host| Node::new(host, &models, "You answer in one sentence.").looking();
        let mut nodes: Vec<Node> = hosts.iter().map(node).collect();
        nodes[0].run(&["mesh", "new"]);
        nodes[0].up();
        let invite: Value = serde_json::from_str(&nodes[0].run(&["invite", "--json"])).unwrap();
        nodes[1].run(&["join", invite["invite"].as_str().unwrap()]);
        // Nothing tells the guest where its host is any more, and nothing ever told the host.
        std::fs::remove_file(hosts[1].folder().join("mesh/invite")).unwrap();
        nodes[1].up();
        nodes[0].wait_to_see(1);
        nodes[1].wait_to_see(1);

        // Somebody of another mesh on the same network finds us, and stays outside.
        nodes[2].run(&["mesh", "new"]);
        nodes[2].up();
        nodes[2].wait_to_say(&id(&nodes[0]));
        std::thread::sleep(Duration::from_secs(3));
        assert_eq!(nodes[0].sees(), 1);
        assert_eq!(nodes[2].sees(), 0);
        let page: Value = serde_json::from_str(&nodes[0].run(&["peers", "--json"])).unwrap();
        assert_eq!(page["members"], 2);

        // The cable is cut, and both say so; it is whole again, and both are there.
        let cut = Instant::now();
        lab.partition(&[&hosts[0]], &[&hosts[1]]);
        nodes[0].wait_to_see(0);
        nodes[1].wait_to_see(0);
        println!("a cut was noticed after {:?}", cut.elapsed());
        assert!(cut.elapsed() < NOTICED);
        lab.heal();
        let healed = Instant::now();
        nodes[0].wait_to_see(1);
        nodes[1].wait_to_see(1);
        println!("and its end after {:?}", healed.elapsed());
    });
}
