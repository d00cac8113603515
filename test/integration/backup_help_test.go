package integration_test

import (
	"fmt"
	"testing"

	"understudy/test/cluster"
)

// guarded is a healthy group with one location, a directory of backup, with what
// the table "counted" holds, and backups that only the group itself or the test
// begins.
func guarded(t *testing.T) (*cluster.Group, *cluster.Place) {
	t.Helper()
	g := healthy(t, cluster.WithPolicy("failover: manual\n"+cluster.QuietBackups))
	makeCounted(t, g)
	return g, g.AddPlace(t, g.Backup, "disk")
}

// makeCounted makes the tables of count.
func makeCounted(t *testing.T, g *cluster.Group) {
	t.Helper()
	g.Main.Exec(t, "create table counted (id bigint primary key, pad text); create table buckets (id int primary key, n bigint);"+
		"insert into buckets select i, 0 from generate_series(0, 99) i")
}

// count writes n more rows, each with a count of it that must agree, in one
// transaction each.
func count(t *testing.T, g *cluster.Group, n int) {
	t.Helper()
	p := g.Primary(t)
	p.Exec(t, fmt.Sprintf(`do $$ declare x bigint; begin
		select coalesce(max(id), 0) into x from counted;
		for i in 1..%d loop
			insert into counted values (x + i, repeat(md5((x + i)::text), 20));
			update buckets b set n = b.n + 1 where b.id = (x + i) %% 100;
			commit;
		end loop; end $$`, n))
}

// counted is what a server holds of the rows of count, in one line that is equal
// for equal contents, after a check that it is what some number of transactions
// leave behind.
const counted = `select case when c = m and c = s and c = coalesce(k, 0) then c || ' rows ' || d else
	format('torn: %s rows up to %s, counted as %s, by the index %s', c, m, s, k) end from
	(select count(*) c, coalesce(max(id), 0) m, coalesce(md5(string_agg(id || pad, ' ' order by id)), '') d from counted) a,
	(select sum(n) s from buckets) b, (select count(id) k from counted where id > 0) e`

// sameAs restores a set from a place with stock tools and compares.
func sameAs(t *testing.T, p *cluster.Place, label, want string, settings ...string) {
	t.Helper()
	r := p.Restore(t, label, settings...)
	defer r.Stop(t)
	if got := r.Query(t, counted); got != want {
		t.Errorf("%s of %s restored holds %s, want %s", label, p.Name, got, want)
	}
}
