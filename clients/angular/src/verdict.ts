import { HttpErrorResponse } from '@angular/common/http';
import { asksAgain, problemType, retryAfter } from 'flask-idempotency';
import { from, map, Observable, of } from 'rxjs';

/** Whether a failure asks to be tried again, and after how many milliseconds at the least. */
export interface Verdict {
  readonly again: boolean;
  readonly asked: number;
}

export function judge(error: unknown): Observable<Verdict> {
  // What is not an answer is some interceptor's own error, which no repeat mends.
  if (!(error instanceof HttpErrorResponse)) return of({ again: false, asked: 0 });
  // The network's: no connection, a time-out, or an answer that was cut.
  if (error.status === 0) return of({ again: true, asked: 0 });
  const asked = retryAfter(error.headers.get('Retry-After'), error.headers.get('Date'));
  const replayed = isReplay(error);
  const saysWhen = error.headers.has('Retry-After');
  return typeOfProblem(error).pipe(
    map((problemType) => ({ again: asksAgain(error.status, { problemType, replayed, saysWhen }), asked })),
  );
}

export function isReplay(answer: { headers: { get(name: string): string | null } }): boolean {
  return answer.headers.get('Idempotent-Replayed') === 'true';
}

function typeOfProblem({ error, headers }: HttpErrorResponse): Observable<string> {
  const kind = headers.get('Content-Type')?.toLowerCase() ?? '';
  if (!kind.startsWith('application/problem+json')) return of('');
  // The body is what the caller's `responseType` made of it.
  if (error instanceof Blob) return from(error.text()).pipe(map(problemType));
  return of(problemType(error instanceof ArrayBuffer ? new TextDecoder().decode(error) : error));
}
